"""Consumers of a run that want to be called: a progress bar, a dashboard, a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from dpo_lab.training.records import SampleRecord, StepRecord

if TYPE_CHECKING:
    from dpo_lab.training.setup import Job

State = Literal["done", "stopped", "failed"]


class Callback:
    """Does nothing; override what you need. Called in the thread that runs the loop."""

    def on_prepared(self, job: Job) -> None:
        """By `run_job`, before anything is trained: policy and reference are equal."""

    def on_start(self, job: Job, first_step: int, total_steps: int) -> None:
        """Before the first step; `first_step` is above 0 in a resumed run."""

    def on_wait(self, what: str, done: int, total: int) -> None:
        """While something takes long that is no step: on what, and how far it is.

        That is an evaluation between steps; and by `run_job` also what comes before `on_start` and
        after `on_end`. Where nothing can be counted, `total` is 0.
        """

    def on_step(self, record: StepRecord) -> None:
        """After every optimiser step, and for step 0 after its evaluation."""

    def on_sample(self, samples: Sequence[SampleRecord]) -> None:
        """After answers to held-out prompts were made."""

    def on_checkpoint(self, step: int) -> None:
        """After a checkpoint is on disk."""

    def on_end(self, state: State, error: BaseException | None) -> None:
        """Once, however training ended; with its exception if it failed."""
