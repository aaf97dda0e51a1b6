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

    def on_start(self, job: Job, first_step: int, total_steps: int) -> None:
        """Before the first step; `first_step` is above 0 in a resumed run."""

    def on_wait(self, what: str, done: int, total: int) -> None:
        """Between steps, while an evaluation is at work: on what, and how far it is."""

    def on_step(self, record: StepRecord) -> None:
        """After every optimiser step, and for step 0 after its evaluation."""

    def on_sample(self, samples: Sequence[SampleRecord]) -> None:
        """After answers to held-out prompts were made."""

    def on_checkpoint(self, step: int) -> None:
        """After a checkpoint is on disk."""

    def on_end(self, state: State, error: BaseException | None) -> None:
        """Once, however the run ended; with its exception if it failed."""
