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
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import Job
from dpo_lab.training.threads import KEY, RunThreads


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
    """
    control = control or RunControl()
    learner = Learner(job)
    kept = run.environment.get("threads") if run else None
    threads = RunThreads(kept or threads_worth(job.policy.model))
    saved, error = -1, None
    state: State = "failed"
    if run:
        run.lock()
    try:
        if job.config.eval_every:
            job.reference.keep()
        job.reference.policy_moves()
        if run:
            saved = _restore(learner, run)
        threads.take(job.policy.device, _last_threads(run))
        _tell(callbacks, "on_start", job, learner.step, learner.total_steps)
        # One that was stopped before its first step has that record already.
        begun = saved == 0 and run.records()
        if learner.step == 0 and job.config.eval_every and not begun:
            yield _evaluated(learner.start_record(), learner, run, callbacks)
        while learner.step < learner.total_steps:
            learner.change(control.wait_for_turn())
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
            if run and (_due(record.step, job.config.checkpoint_every) or last):
                saved = _checkpoint(learner, run, callbacks)
            yield record
        state = "done" if learner.step == learner.total_steps else "stopped"
    except GeneratorExit:
        state = "stopped"
        raise
    except KeyboardInterrupt:
        # It may have struck inside a step: the last checkpoint is the last sound state.
        state, saved = "stopped", learner.step
        raise
    except BaseException as caught:
        error = caught
        raise
    finally:
        try:
            if run and state != "failed" and saved < learner.step:
                _checkpoint(learner, run, callbacks)
        except BaseException as caught:
            state, error = "failed", caught
            raise
        finally:
            try:
                if run:
                    _finish(run, state, learner.step, error)
            finally:
                release_freed_memory()
                threads.put_back()
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


def _restore(learner: Learner, run: Run) -> int:
    checkpoint = run.checkpoint
    if checkpoint is None:
        run.rewind(-1)
        return -1
    run.check()
    learner.load(checkpoint)
    run.rewind(learner.step)
    return learner.step


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


def _checkpoint(learner: Learner, run: Run, callbacks: Sequence[Callback]) -> int:
    levers = {"beta": learner.beta, "learning_rate": learner.peak}
    run.save_checkpoint(learner.save, step=learner.step, **levers)
    _tell(callbacks, "on_checkpoint", learner.step)
    return learner.step


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _tell(callbacks: Sequence[Callback], name: str, *arguments) -> None:
    for callback in callbacks:
        getattr(callback, name)(*arguments)
