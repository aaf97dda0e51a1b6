"""The base class of callbacks of the training loop: progress bars, dashboards, tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from dpo_lab.training.records import SampleRecord, StepRecord

if TYPE_CHECKING:
    from dpo_lab.training.job import Job

State = Literal["done", "stopped", "failed"]


class Callback:
    """Does nothing; override what you need. Called in the thread that runs the loop."""

    def on_prepared(self, job: Job) -> None:
        """From `run_job`, before training: policy and reference are equal."""

    def on_start(self, job: Job, first_step: int, total_steps: int) -> None:
        """Before the first step; `first_step` counts steps already done, 0 in a new run."""

    def on_wait(self, what: str, done: int, total: int) -> None:
        """During long work other than training steps: its name and progress.

        This is an evaluation between steps; from `run_job` also work before `on_start` and after
        `on_end`. `total` is 0 if the work cannot be counted.
        """

    def on_step(self, record: StepRecord) -> None:
        """After every optimiser step and its evaluation; also after the evaluation of step 0."""

    def on_sample(self, samples: Sequence[SampleRecord]) -> None:
        """After answers to held-out prompts were generated."""

    def on_checkpoint(self, step: int) -> None:
        """After a checkpoint is on disk."""

    def on_end(self, state: State, error: BaseException | None) -> None:
        """Once, when training ends in any way; with the exception if it failed."""
