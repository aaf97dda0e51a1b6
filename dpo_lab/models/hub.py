"""Downloads a model from the Hugging Face hub into the hub's cache."""

from __future__ import annotations

from pathlib import Path

# Files needed to load a causal language model or an adapter, without its other formats.
NEEDED = ("*.json", "*.txt", "*.model", "*.jinja", "*.py", "*.safetensors")
NOT_NEEDED = ("*/*", "consolidated*")


def hub_folder(name: str, revision: str | None = None) -> Path:
    """Folder of a model in the hub's cache; it is downloaded if it is not there.

    The hub is asked once, since `from_pretrained` would retry for a minute before it gives up.
    Without a connection, an earlier download is used.

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
