"""A short model card for what a trainer pushes."""

from __future__ import annotations

from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import TrainerState

from dpo_lab.training.job import Job


def model_card(job: Job, state: TrainerState, **given: Any) -> str:
    """What the model was trained on, how, and how far it went from its reference.

    Args:
        job: The run's job.
        state: With the last evaluation's metrics in its history.
        **given: As TRL's `create_model_card`: `model_name`, `dataset_name`, `tags`.
    """
    config, base = job.config, job.config.model
    tags = given.get("tags") or []
    data = ModelCardData(
        base_model=None if base.startswith(("/", ".")) else base,
        library_name="peft" if job.policy.lora else "transformers",
        datasets=given.get("dataset_name"),
        tags=["dpo", "dpo-lab", *([tags] if isinstance(tags, str) else tags)],
    )
    last: dict[str, Any] = {}
    for logs in state.log_history:
        last |= logs
    measured = [
        ("loss", "loss", "nats"),
        ("held-out loss", "eval_loss", "nats"),
        ("held-out reward accuracy", "eval_rewards/accuracies", ""),
        ("KL(policy || reference)", "eval_kl/per_token", "nats an answer"),
        ("KL(policy || reference), training prompts", "kl/per_token", "nats an answer"),
    ]
    rows = [f"| {what} | {last[key]:.4g} {unit} |" for what, key, unit in measured if key in last]
    name = given.get("model_name") or "Model"
    text = (
        f"---\n{data.to_yaml()}\n---\n\n# {name}\n\n"
        f"Trained with DPO Lab from `{base}` on {len(job.train)} pairs: loss "
        f"`{config.loss}`, beta {config.beta:g}, {state.global_step} steps of "
        f"{config.batch_pairs} pairs, learning rate {config.learning_rate:g}.\n\n"
        "| measured at the end | |\n|---|---|\n" + "\n".join(rows) + "\n"
    )
    return str(ModelCard(text))
