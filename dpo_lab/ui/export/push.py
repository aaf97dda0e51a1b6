"""An exported folder uploaded to the hub; its token is the hub library's own affair."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dpo_lab.data.quoting import shortened

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def check_push(repo: str, api: HfApi | None = None) -> None:
    """Raise if nothing can be uploaded to a repository, before any work is done for it.

    Args:
        repo: Its name, `owner/name`.
        api: The hub's client, by default one with the token that `hf auth login` or `HF_TOKEN` set.

    Raises:
        ValueError: If the name is none, or the hub cannot be reached or knows no token.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
        if repo.count("/") != 1:
            raise HFValidationError("the owner is missing")
    except HFValidationError as error:
        raise ValueError(
            f"push={repo!r}: no name of a repository ({shortened(error)}). Give owner/name."
        ) from None
    try:
        (api or HfApi()).whoami()
    except Exception as error:  # no token, a wrong one, no connection: the http client's own too
        raise ValueError(
            f"push={repo}: the hub gives no access ({shortened(error)}). Log in with "
            "'hf auth login' or set HF_TOKEN; without a connection leave --push out."
        ) from None


def check_base(base: str | None) -> None:
    """Raise for an adapter that nobody else could load.

    Args:
        base: The base that an adapter needs, by name; None for a whole model.

    Raises:
        ValueError: If the base is a folder of this machine.
    """
    if base is not None and Path(base).exists():
        raise ValueError(
            f"push: the adapter's base is a folder of this machine, {base}, so nobody else could "
            "load it. Upload a whole model: --merge (merge=True)."
        )


def push_export(folder: Path, repo: str, *, public: bool = False, api: HfApi | None = None) -> str:
    """Upload an exported folder in one commit.

    Args:
        folder: The folder.
        repo: The repository, `owner/name`, which is created if it is not there.
        public: Whether a new repository can be read by all; otherwise it is private.
        api: As for `check_push`.

    Returns:
        The address of the repository.

    Raises:
        ValueError: If the hub refuses it; the folder stays.
    """
    from huggingface_hub import HfApi

    api = api or HfApi()
    try:
        address = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message="A policy exported by DPO Lab"
        )
    except Exception as error:
        raise ValueError(
            f"push={repo}: the hub does not take it ({shortened(error)}). The folder {folder} is "
            f"whole; upload it with 'hf upload {repo} {folder}'."
        ) from error
    return str(address)
