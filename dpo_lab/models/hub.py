"""Models of the Hugging Face hub, brought into its cache."""

from __future__ import annotations

from pathlib import Path

# What a causal language model or an adapter is loaded from; not its other formats.
NEEDED = ("*.json", "*.txt", "*.model", "*.jinja", "*.py", "*.safetensors")
NOT_NEEDED = ("*/*", "consolidated*")


def hub_folder(name: str, revision: str | None = None) -> Path:
    """Folder in the hub's cache that holds a model; downloaded if it is not there.

    The hub is asked once: `from_pretrained` alone would try for a minute before it gave up.
    Without a connection, what was downloaded before is used.

    Args:
        name: Its id, `owner/name`.
        revision: Branch, tag or commit.

    Raises:
        OSError: If there is no such model, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=NEEDED, ignore_patterns=NOT_NEEDED
        )
    except HFValidationError as error:
        raise FileNotFoundError(str(error)) from None
    return Path(folder)
