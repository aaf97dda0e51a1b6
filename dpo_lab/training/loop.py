"""The training loop: a generator of step records, independent of widgets, terminal and notebook."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dpo_lab.training.callbacks import Callback
from dpo_lab.training.control import RunControl
from dpo_lab.training.course import Course
from dpo_lab.training.job import Job
from dpo_lab.training.records import StepRecord
from dpo_lab.training.rhythm import Rhythm
from dpo_lab.training.runs import Run


def train(
    job: Job,
    *,
    run: Run | None = None,
    control: RunControl | None = None,
    callbacks: Sequence[Callback] = (),
    rhythm: Rhythm | None = None,
) -> Iterator[StepRecord]:
    """Train a job's policy, one step at a time.

    The policy is trained in place. If the run's folder has a checkpoint, training resumes from it;
    on the CPU it then gives exactly the records of an uninterrupted run. If the job has another
    beta or learning rate than the run started with, it takes effect from there on. If several
    processes work on the job, each calls this function; only the first one writes to the folder.

    Args:
        job: From `prepare`; its policy must still equal the reference.
        run: Folder for records and checkpoints; None keeps nothing.
        control: To pause, stop, and change beta or the learning rate; if several processes work on
            the run, all but stopping in the first one.
        callbacks: Called in this thread.
        rhythm: When to evaluate and save, if not as the job's settings say.

    Yields:
        A record for step 0 if there is an evaluation, then one after every optimiser step.

    Raises:
        NotTheReference: If the policy is not the reference at the start.
        NonFiniteLoss: If training diverges; the last checkpoint is kept.
        ValueError: If the run cannot be resumed; its folder is not changed.
    """
    course = Course(job, run, control or RunControl(), callbacks, rhythm)
    learner = course.learner
    with course, job.processes.naming_the_lost():
        course.begin()
        # A run that was stopped before its first step already has that record.
        if learner.step == 0 and course.evaluates and not course.resumed:
            yield course.evaluated(learner.start_record())
        while learner.step < learner.total_steps and course.takes_turn():
            course.rhythm.before_step(learner)
            record = course.threads.watched(learner.take_step())
            course.rhythm.after_step(learner, record)
            evaluates = course.evaluates
            if evaluates or learner.step == learner.total_steps:
                learner.check_weights()
            if evaluates:
                record = course.evaluated(record)
            else:
                course.note(record)
            if course.checkpoint_due:
                course.save()
            yield record
