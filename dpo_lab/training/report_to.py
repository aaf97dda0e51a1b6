"""Trackers (TensorBoard, W&B, trackio, MLflow, ...) through transformers' own integrations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import (
    INTEGRATION_TO_CALLBACK,
    get_reporting_integration_callbacks,
)
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

from dpo_lab.training.callbacks import Callback, State
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.hf_logs import evaluation_logs, step_logs
from dpo_lab.training.job import Job
from dpo_lab.training.records import StepRecord

Names = str | Sequence[str] | None


@dataclass
class RunArguments(TrainingArguments):
    """What callbacks of transformers read of a run with the lab's own settings.

    Attributes:
        lab: Those settings, which trackers then show as the run's.
    """

    lab: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The lab's settings; those of transformers say nothing of the run."""
        return {"output_dir": self.output_dir, "run_name": self.run_name, **self.lab}


def arguments_of(config: TrainConfig, output_dir: str | Path, **settings: Any) -> RunArguments:
    """What callbacks of transformers read, for a run with the lab's own settings.

    Args:
        config: The settings.
        output_dir: Where trackers write that keep files.
        **settings: Others of `TrainingArguments`.
    """
    every = config.eval_every
    return RunArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=config.batch_pairs,
        num_train_epochs=config.epochs or 1.0,
        max_steps=config.steps or -1,
        learning_rate=config.learning_rate or 0.0,
        seed=config.seed,
        eval_strategy="steps" if every else "no",
        eval_steps=every or None,
        eval_on_start=bool(every),
        save_strategy="steps" if config.checkpoint_every else "no",
        save_steps=config.checkpoint_every or 500,
        logging_steps=1,
        use_cpu=config.device == "cpu",
        lab={
            name: value for name, value in config.as_dict().items() if value not in (None, (), {})
        },
        **settings,
    )


def tracker_callbacks(names: Names) -> list[TrainerCallback]:
    """Transformers' callbacks for trackers.

    Args:
        names: As transformers calls them: tensorboard, wandb, trackio, mlflow, comet_ml...; `none`
            for none, `all` for those that are installed.

    Raises:
        ValueError: If a tracker is unknown, or not installed.
    """
    found: list[TrainerCallback] = []
    for name in [names] if isinstance(names, str) else names or ():
        if name not in (*INTEGRATION_TO_CALLBACK, "none", "all"):
            raise ValueError(
                f"report_to={name!r}: unknown. Use tensorboard, wandb, trackio, mlflow, or another "
                "that transformers knows."
            )
        try:
            found += [kind() for kind in get_reporting_integration_callbacks(name)]
        except (RuntimeError, ImportError, ValueError) as error:
            raise ValueError(
                f"report_to={name!r}: {name} is not installed. Install it ('pip install {name}'), "
                "or leave it out."
            ) from error
    return found


class ReportTo(Callback):
    """Reports a run to trackers: every step, with KL and all else that is measured.

    Steps come as `train/...`, evaluations as `eval/...`, with the keys of TRL's trainer where it
    has them; `eval/kl/per_token` and `eval/kl/k1` are the KL from the reference, in nats.

    Args:
        names: The trackers, see `tracker_callbacks`.
        folder: The run's folder, where TensorBoard's files go.

    Raises:
        ValueError: If a tracker is unknown, or not installed.
    """

    def __init__(self, names: Names, folder: str | Path):
        self.folder = Path(folder)
        self.state, self.control = TrainerState(), TrainerControl()
        self._trackers = tracker_callbacks(names)
        self._handler: CallbackHandler | None = None

    def on_start(self, job: Job, first_step: int, total_steps: int) -> None:
        """Open the trackers; only the first process reports."""
        if not job.processes.first:
            return
        name = self.folder.name
        self.args = arguments_of(job.config, self.folder, run_name=name, report_to="none")
        callbacks = [DefaultFlowCallback(), *self._trackers]
        model, tokenizer = job.policy.model, job.policy.tokenizer
        self._handler = CallbackHandler(callbacks, model, tokenizer, None, None)
        self.state.global_step, self.state.max_steps = first_step, total_steps
        self._handler.on_train_begin(self.args, self.state, self.control)

    def on_step(self, record: StepRecord) -> None:
        """Report a step, and what was measured after it."""
        if self._handler is None:
            return
        self.state.global_step, self.state.epoch = record.step, record.epoch
        logs = [step_logs([record])] if record.step else []
        for some in (*logs, evaluation_logs(record.values)):
            if some:
                some["epoch"] = record.epoch
                self._handler.on_log(self.args, self.state, self.control, some)

    def on_end(self, state: State, error: BaseException | None) -> None:
        """Close the trackers."""
        if self._handler is not None:
            self._handler.on_train_end(self.args, self.state, self.control)
