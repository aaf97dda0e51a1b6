"""Transformers' callbacks on the lab's loop: what they are called with, and what they ask for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler
from transformers.trainer_utils import SaveStrategy

from dpo_lab.training.callbacks import Callback
from dpo_lab.training.control import RunControl
from dpo_lab.training.hf_logs import evaluation_logs, step_logs
from dpo_lab.training.job import Job
from dpo_lab.training.learner import Learner
from dpo_lab.training.records import StepRecord
from dpo_lab.training.rhythm import Rhythm

NO_EPOCH_STOP = (
    "control.should_epoch_stop: the lab does not leave an epoch before its end. Set "
    "control.should_training_stop, or leave it."
)


class Flow(Rhythm, Callback):
    """Calls a trainer's callbacks in transformers' order, and does what their control asks for.

    At the end of an epoch `on_epoch_end` is called before the evaluation of its last step.

    Args:
        job: The run's job.
        args: The arguments that callbacks read.
        state: The trainer's state, which this keeps.
        control: What callbacks set.
        handler: The callbacks.
        run_control: Stops the run.
        save: Called with the step when a callback asked for a checkpoint, after it is written.
        measures: Steps after which KL is measured though no evaluation is asked for.
    """

    def __init__(
        self,
        job: Job,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        handler: CallbackHandler,
        run_control: RunControl,
        save: Callable[[int], None],
        measures: frozenset[int] = frozenset(),
    ):
        super().__init__(job)
        self.args, self.state, self.control, self.handler = args, state, control, handler
        self.run_control, self.save, self.measures = run_control, save, measures
        self.train_loss, self.first_step = 0.0, 0
        self._window: list[StepRecord] = []
        self._asked_evaluation = False

    def on_start(self, job: Job, first_step: int, total_steps: int) -> None:
        """Training begins, or goes on."""
        self.state.global_step = self.first_step = first_step
        self._call("on_train_begin")

    def before_step(self, learner: Learner) -> None:
        """A step begins, and with it perhaps an epoch."""
        self.handler.optimizer = learner.optimizer
        if learner.order.epoch(learner.step).is_integer():
            self._call("on_epoch_begin")
        self._call("on_step_begin")

    def after_step(self, learner: Learner, record: StepRecord) -> None:
        """A step is done: callbacks say whether to log, evaluate, save or stop."""
        self._window.append(record)
        self.train_loss += record.values.get("loss", 0.0)
        before = math.floor(self.state.epoch or 0)
        self.state.global_step, self.state.epoch = record.step, record.epoch
        self._call("on_step_end")
        self._log_window()
        if math.floor(record.epoch + 1e-9) > before:
            self._call("on_epoch_end")
            self._log_window()

    def _log_window(self) -> None:
        if self.control.should_log and self._window:
            logs = step_logs(self._window)
            self._window = []
            self.log(logs)

    def log(self, logs: dict[str, Any]) -> None:
        """Add to the history, and pass on to the callbacks."""
        logs["epoch"] = self.state.epoch
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self._call("on_log", logs)

    def evaluates(self, step: int, total: int) -> bool:
        """Whether a callback asked for an evaluation, or KL is due."""
        self._asked_evaluation = self.control.should_evaluate if step else self.args.eval_on_start
        return bool(self._asked_evaluation) or step in self.measures

    def on_step(self, record: StepRecord) -> None:
        """A step's record is complete, with what was measured after it."""
        asked = self._asked_evaluation
        # KL on training prompts is no evaluation on held-out pairs.
        metrics = evaluation_logs(record.values, "eval_" if asked else "")
        if not metrics:
            return
        if asked:
            metrics["eval_runtime"] = round(record.timing.get("evaluation_seconds", 0.0), 4)
        self.log(dict(metrics))
        if asked:
            self.evaluated(metrics)

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """Tell the callbacks of an evaluation, and remember the best one."""
        # Before it knows of a new best one: early stopping compares with the former.
        self._call("on_evaluate", metrics)
        better = self._note_best(metrics)
        if self.args.save_strategy == SaveStrategy.BEST:
            self.control.should_save = better

    def _note_best(self, metrics: Mapping[str, float]) -> bool:
        name, state = self.args.metric_for_best_model, self.state
        if name is None:
            return False
        name = name if name.startswith("eval_") else f"eval_{name}"
        if name not in metrics:
            raise ValueError(
                f"metric_for_best_model={name!r}: no evaluation measures it. "
                f"Use one of {', '.join(metrics)}."
            )
        better = np.greater if self.args.greater_is_better else np.less
        if state.best_metric is not None and not better(metrics[name], state.best_metric):
            return False
        state.best_metric, state.best_global_step = metrics[name], state.global_step
        return True

    def saves(self, step: int, total: int) -> bool:
        """Whether a callback asked for a checkpoint."""
        return step == total or bool(self.control.should_save)

    def on_checkpoint(self, step: int) -> None:
        """A checkpoint is on disk; one that was asked for also gets its own folder."""
        if self.control.should_save:
            self.save(step)
            self._call("on_save")

    def ended(self) -> None:
        """Training is over, and everything is logged."""
        self._call("on_train_end")

    def _call(self, event: str, *values: Any) -> None:
        result = getattr(self.handler, event)(self.args, self.state, self.control, *values)
        self.control = self.control if result is None else result
        if self.control.should_epoch_stop:
            raise NotImplementedError(NO_EPOCH_STOP)
        if self.control.should_training_stop:
            self.run_control.stop()
