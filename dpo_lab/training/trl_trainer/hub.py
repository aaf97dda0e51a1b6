"""A trained model to the hub: weights or adapter, and tokenizer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import TrainingArguments

from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.weights import save_model


def push(
    policy: LanguageModel,
    args: TrainingArguments,
    message: str,
    *,
    token: str | None = None,
    revision: str | None = None,
    card: str = "",
) -> Any:
    """Upload a model to the repository that the arguments name.

    Args:
        policy: The model.
        args: `hub_model_id`, by default the name of `output_dir`; `hub_token`, by default that of
            `hf auth login`; `hub_private_repo`.
        message: Of the commit.
        token: Instead of `hub_token`.
        revision: Branch, instead of `hub_revision`.
        card: Text of the README.

    Returns:
        What the hub says of the commit.
    """
    api = HfApi(token=token or args.hub_token)
    name = args.hub_model_id or Path(str(args.output_dir)).absolute().name
    repository = api.create_repo(name, private=args.hub_private_repo, exist_ok=True).repo_id
    branch = revision or args.hub_revision
    if branch:
        api.create_branch(repository, branch=branch, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_model(policy, folder)
        if card:
            (folder / "README.md").write_text(card, encoding="utf-8")
        return api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=message, revision=branch
        )
