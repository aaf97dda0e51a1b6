"""The training loop: a generator of records that knows no widget, no terminal and no notebook."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from dpo_lab.kernels.memory import release_freed_memory
from dpo_lab.kernels.threads import threads_worth
from dpo_lab.training.callbacks import Callback, State
from dpo_lab.training.control import RunControl
from dpo_lab.training.evaluation import answers, evaluate, reference_score, samples_cut
from dpo_lab.training.learner import Learner
from dpo_lab.training.records import StepRecord
from dpo_lab.training.runs import LEVERS, Run
from dpo_lab.training.setup import Job
from dpo_lab.training.threads import KEY, RunThreads

CHECKPOINT_SECONDS = 60.0
"""Seconds without a checkpoint after which the next step has one."""
CHECKPOINT_SHARE = 0.05
"""Most of the time that goes into those: a large model has them less often."""


def train(
    job: Job,
    *,
    run: Run | None = None,
    control: RunControl | None = None,
    callbacks: Sequence[Callback] = (),
) -> Iterator[StepRecord]:
    """Train a job's policy, a step at a time.

    The policy is trained in place. With a run whose folder holds a checkpoint, training goes on
    from there, and gives on the CPU the very records that it would have given without the break.
    Where the job asks for another beta or learning rate than the run was begun with, it takes
    effect from there on.

    Args:
        job: From `prepare`; its policy must be the reference still.
        run: Where to write records and checkpoints; none keeps nothing.
        control: Levers to pause, stop, and change beta or the learning rate.
        callbacks: Called in this thread.

    Yields:
        A record for step 0 if there is an evaluation, then one after every optimiser step.

    Raises:
        NotTheReference: If the policy is not the reference at the start.
        NonFiniteLoss: If training breaks down; the last checkpoint stays.
        ValueError: If the run's folder is not one to go on with; it stays as it is.
    """
    control = control or RunControl()
    learner = Learner(job)
    kept = run.environment.get("threads") if run else None
    threads = RunThreads(kept or threads_worth(job.policy.model))
    checkpoints = _Checkpoints(learner, run, callbacks)
    restored, error = False, None
    state: State = "failed"
    if run:
        run.lock()
    try:
        if job.config.eval_every:
            job.reference.keep()
        job.reference.policy_moves()
        if run:
            checkpoints.restore(run)
        restored = True
        threads.take(job.policy.device, _last_threads(run))
        _tell(callbacks, "on_start", job, learner.step, learner.total_steps)
        # One that was stopped before its first step has that record already.
        if learner.step == 0 and job.config.eval_every and not (run and run.records()):
            yield _evaluated(learner.start_record(), learner, run, callbacks)
        while learner.step < learner.total_steps:
            if changes := control.wait_for_turn():
                checkpoints.change(changes)
            if control.stopped:
                break
            record = threads.watched(learner.take_step())
            last = record.step == learner.total_steps
            evaluated = _due(record.step, job.config.eval_every) or last and job.config.eval_every
            if evaluated or last:
                learner.check_weights()
            if evaluated:
                record = _evaluated(record, learner, run, callbacks)
            else:
                _emit(record, run, callbacks)
            if checkpoints.due:
                checkpoints.save()
            yield record
        state = "done" if learner.step == learner.total_steps else "stopped"
    except GeneratorExit:
        state = "done" if learner.step == learner.total_steps else "stopped"
        raise
    except KeyboardInterrupt:
        # It may have struck inside a step: the last checkpoint is the last sound state.
        state, checkpoints.saved = "stopped", learner.step
        raise
    except BaseException as caught:
        error = caught
        raise
    finally:
        try:
            if run and state != "failed" and checkpoints.saved < learner.step:
                checkpoints.save()
        except BaseException as caught:
            state, error = "failed", caught
            raise
        finally:
            try:
                if run and restored:
                    _finish(run, state, learner.step, error)
                elif run:
                    run.unlock()  # what it says of an earlier end stays
            finally:
                release_freed_memory()
                threads.put_back()
                job.hand_back()
                _tell(callbacks, "on_end", state, error)


def _finish(run: Run, state: State, step: int, error: BaseException | None) -> None:
    """Note how a run ended, and give its folder back."""
    try:
        run.finish({"state": state, "step": step, "error": str(error or "") or None})
    except OSError:
        if error is None:
            raise
        # A disk that took no checkpoint takes no note either; what is raised already says so.
    finally:
        run.unlock()


class _Checkpoints:
    """The checkpoints of a run, by steps and by time; no record depends on when they are written.

    Attributes:
        saved: The step of the last one that has all that is to go on from it.
    """

    def __init__(self, learner: Learner, run: Run | None, callbacks: Sequence[Callback]):
        self.saved = -1
        self._learner, self._run, self._callbacks = learner, run, callbacks
        self._since, self._took = time.monotonic(), 0.0

    def restore(self, run: Run) -> None:
        """Take up the run where its last one is, with the levers that are asked for now."""
        learner, checkpoint = self._learner, run.checkpoint
        if checkpoint is None:
            run.rewind(-1)
            return
        run.check()
        learner.load(checkpoint)
        if learner.step > learner.total_steps:
            raise ValueError(
                f"{run.path}: its checkpoint is of step {learner.step}, and the run has "
                f"{learner.total_steps}. Give the settings that it began with."
            )
        begun, now = run.settings, {"beta": learner.beta, "learning_rate": learner.peak}
        asked = {name: getattr(learner.config, name) for name in LEVERS}
        changes = {
            name: value
            for name, value in asked.items()
            if begun.get(name) not in (None, value) and value != now[name]
        }
        run.check_changes(changes)
        run.rewind(learner.step)
        self.saved = learner.step
        if changes:
            self.change(changes)

    def change(self, changes: dict[str, float]) -> None:
        """Move levers, which a checkpoint of before has not got."""
        self._learner.change(changes)
        self.saved = -1

    @property
    def due(self) -> bool:
        """Whether this step has one."""
        learner, every = self._learner, self._learner.config.checkpoint_every
        if self._run is None:
            return False
        seconds = max(CHECKPOINT_SECONDS, self._took / CHECKPOINT_SHARE)
        late = every > 0 and time.monotonic() - self._since >= seconds
        return late or _due(learner.step, every) or learner.step == learner.total_steps

    def save(self) -> None:
        """Write one."""
        started, learner = time.monotonic(), self._learner
        levers = {"beta": learner.beta, "learning_rate": learner.peak}
        self._run.save_checkpoint(learner.save, step=learner.step, **levers)
        self._since, self.saved = time.monotonic(), learner.step
        self._took = self._since - started
        _tell(self._callbacks, "on_checkpoint", learner.step)


def _last_threads(run: Run | None) -> int | None:
    """What a run that goes on has changed the number of its threads to."""
    changes = [record[KEY] for record in run.records() if KEY in record.values] if run else []
    return int(changes[-1]) if changes else None


def _evaluated(record: StepRecord, learner: Learner, run, callbacks) -> StepRecord:
    """The record with an evaluation in it; samples go out before it."""
    started, job = time.perf_counter(), learner.job
    seed = job.config.seed * 1_000_003 + record.step

    def wait(what: str, done: int, total: int) -> None:
        _tell(callbacks, "on_wait", what, done, total)

    # Summing over all answers takes as long as all else: at every other evaluation, and the last.
    listed = _due(record.step, 2 * job.config.eval_every) or record.step == learner.total_steps
    values = evaluate(job, learner.beta, seed, wait, moved=record.step > 0, listed=listed)
    if record.step == 0:
        values |= reference_score(job, seed)
    samples = answers(job, record.step)
    values |= samples_cut(samples)
    if samples:
        if run:
            run.append_samples(samples)
        _tell(callbacks, "on_sample", samples)
    timing = {**record.timing, "evaluation_seconds": time.perf_counter() - started}
    record = replace(record, values={**record.values, **values}, timing=timing)
    _emit(record, run, callbacks)
    return record


def _emit(record: StepRecord, run: Run | None, callbacks: Sequence[Callback]) -> None:
    if run:
        run.append(record)
    _tell(callbacks, "on_step", record)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _tell(callbacks: Sequence[Callback], name: str, *arguments) -> None:
    for callback in callbacks:
        getattr(callback, name)(*arguments)
