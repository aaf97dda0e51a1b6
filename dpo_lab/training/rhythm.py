"""`Rhythm`: after which steps a run evaluates and writes a checkpoint."""

from __future__ import annotations

from dpo_lab.training.job import Job
from dpo_lab.training.learner import Learner
from dpo_lab.training.records import StepRecord


class Rhythm:
    """The rhythm that a run's settings ask for; a subclass may follow another.

    If several processes work on the run, each asks its own, and all must get the same answers.

    Args:
        job: The run's job.
    """

    def __init__(self, job: Job):
        self.job = job

    def before_step(self, learner: Learner) -> None:
        """Called before every optimiser step."""

    def after_step(self, learner: Learner, record: StepRecord) -> None:
        """Called after every optimiser step, before anything is measured or written."""

    def evaluates(self, step: int, total: int) -> bool:
        """Whether to evaluate after `step` steps of `total`; 0 is before the first one."""
        every = self.job.config.eval_every
        return every > 0 and (step % every == 0 or step == total)

    def saves(self, step: int, total: int) -> bool:
        """Whether to write a checkpoint then; a run does so at its end in any case."""
        every = self.job.config.checkpoint_every
        return step == total or (every > 0 and step % every == 0)
