"""What a trainer saves: the model, its card, its state, metrics; to a folder or the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerState, TrainingArguments
from transformers.trainer_pt_utils import log_metrics, metrics_format, save_metrics

from dpo_lab.models.weights import save_model
from dpo_lab.training.job import Job
from dpo_lab.training.trl_trainer.card import model_card
from dpo_lab.training.trl_trainer.folders import STATE
from dpo_lab.training.trl_trainer.hub import push


class Saving:
    """Methods of a trainer that write; `output_dir` of its arguments is where to.

    Attributes:
        job: The run's job.
        args: The arguments.
        state: The state.
    """

    job: Job
    args: TrainingArguments
    state: TrainerState

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the policy, or its adapter, and the tokenizer for `from_pretrained`."""
        folder = Path(str(output_dir or self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.job.policy, folder)

    def save_state(self) -> None:
        """Write `trainer_state.json` into `output_dir`."""
        self.state.save_to_json(str(Path(str(self.args.output_dir)) / STATE))

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **card: Any,
    ) -> Any:
        """Upload model, tokenizer and a short model card to the hub, see `hub.push`."""
        if not self.job.processes.first:
            return None
        text = model_card(self.job, self.state, **card)
        message = commit_message or "End of training"
        return push(self.job.policy, self.args, message, token=token, revision=revision, card=text)

    def create_model_card(self, model_name: str | None = None, **card: Any) -> None:
        """Write a short model card, `README.md` in `output_dir`."""
        text = model_card(self.job, self.state, model_name=model_name, **card)
        Path(str(self.args.output_dir), "README.md").write_text(text, encoding="utf-8")

    def is_world_process_zero(self) -> bool:
        """Whether this is the first of the run's processes."""
        return self.job.processes.first

    log_metrics, save_metrics = log_metrics, save_metrics
    metrics_format = staticmethod(metrics_format)
