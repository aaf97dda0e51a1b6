"""What a run needs around its steps: folder, checkpoints, threads, callbacks, requests."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from dpo_lab.kernels.memory import release_freed_memory
from dpo_lab.kernels.threads import threads_worth
from dpo_lab.training.callbacks import Callback, State
from dpo_lab.training.control import RunControl
from dpo_lab.training.evaluation import answers, evaluate, reference_score, samples_cut
from dpo_lab.training.heartbeat import Heart
from dpo_lab.training.job import Job
from dpo_lab.training.learner import Learner
from dpo_lab.training.live_settings import LiveSettings
from dpo_lab.training.records import StepRecord
from dpo_lab.training.requests import Inbox
from dpo_lab.training.rhythm import Rhythm
from dpo_lab.training.runs import Run
from dpo_lab.training.saved_state import load_state, save_state
from dpo_lab.training.threads import KEY, RunThreads

CHECKPOINT_SECONDS = 60.0
"""Seconds without a checkpoint after which the next step writes one."""
CHECKPOINT_SHARE = 0.05
"""Largest share of the time spent on these: a large model writes them less often."""

PATIENCE = 0.2
"""Seconds between two looks for requests, and messages to other processes, while it is paused."""


class Course:
    """State and resources of one training run: folder lock, threads, checkpoints, callbacks.

    Args:
        job: The job to train.
        run: Its folder, if it has one; only the first process writes to it.
        control: Whether and how training goes on.
        callbacks: Called on every event.
        rhythm: When to evaluate and save; by default as the settings say.

    Attributes:
        resumed: Whether the run already has records.
    """

    def __init__(
        self,
        job: Job,
        run: Run | None,
        control: RunControl,
        callbacks: Sequence[Callback],
        rhythm: Rhythm | None = None,
    ):
        self.job, self.run, self.control, self.callbacks = job, run, control, callbacks
        self.processes = job.processes
        self.writes = run if job.processes.first else None
        self.learner = Learner(job)
        self.rhythm = rhythm or Rhythm(job)
        self.resumed = False
        self.inbox: Inbox | None = None
        self.heart: Heart | None = None
        self._doing: tuple[str, int, int] | None = None
        kept = run.environment.get("threads") if run else None
        self.threads = RunThreads(kept or threads_worth(job.policy.model))
        self._restored = False
        self._saved = -1  # step of the last checkpoint that is up to date with the live settings
        self._since, self._took = time.monotonic(), 0.0

    def __enter__(self) -> Course:
        self.processes.from_first(lambda: self.writes and self.writes.lock())
        if self.writes:
            self.inbox = Inbox(self.writes.path)
            self.heart = Heart(self.writes.path, self._facts)
            self.heart.start()
        return self

    def begin(self) -> None:
        """Resume from the checkpoint, if there is one, with the run's number of threads."""
        self.job.reference.policy_moves()
        if self.run:
            self._restore(self.run)
        self._restored = True
        records = self.processes.from_first(lambda: self.writes.records() if self.writes else [])
        self.resumed = bool(records)
        self.threads.take(self.job.policy.device, _last_threads(records))
        for callback in self.callbacks:
            callback.on_start(self.job, self.learner.step, self.learner.total_steps)

    def __exit__(self, kind, error: BaseException | None, trace) -> None:
        """Write the last checkpoint and the summary; release all resources."""
        closed = error is None or isinstance(error, GeneratorExit)
        # An interrupt may have come inside a step: the last checkpoint is the last valid state.
        if not (closed or isinstance(error, KeyboardInterrupt)):
            state: State = "failed"
        elif closed and self.learner.step == self.learner.total_steps:
            state, error = "done", None
        else:
            state, error = "stopped", None
        try:
            if closed and self.run and self._saved < self.learner.step:
                self.save()
        except BaseException as caught:
            state, error = "failed", caught
            raise
        finally:
            try:
                if self.writes:
                    self._finish(self.writes, state, error)
            finally:
                release_freed_memory()
                self.threads.put_back()
                self.job.hand_back()
                for callback in self.callbacks:
                    callback.on_end(state, error)

    def _finish(self, run: Run, state: State, error: BaseException | None) -> None:
        """Write how a run ended, unless it failed before it was restored; release its folder."""
        try:
            if self._restored:
                step = self.learner.step
                run.finish({"state": state, "step": step, "error": str(error or "") or None})
        except OSError:
            if error is None:
                raise
            # The disk is probably full: the error that is already being raised says so.
        finally:
            if self.heart:
                self.heart.stop()
            run.unlock()

    def _facts(self) -> dict[str, Any]:
        """The run's state, for its heartbeat."""
        return {
            "state": "paused" if self.control.resting else "training",
            "step": self.learner.step,
            "total_steps": self.learner.total_steps,
            "doing": self._doing,
            "processes": self.processes.count,
        }

    def _restore(self, run: Run) -> None:
        """Resume the run, with the beta and learning rate of the current configuration."""
        learner = self.learner
        if not self.processes.from_first(lambda: _has_checkpoint(run)):
            return
        load_state(learner, run.path / "checkpoint")
        if learner.step > learner.total_steps:
            raise ValueError(
                f"{run.path}: its checkpoint is of step {learner.step}, and the run has "
                f"{learner.total_steps}. Give the settings that it began with."
            )
        original, current = run.settings, LiveSettings.of(learner.config)
        changes = {
            name: value
            for name, value in current.changed_from(self.job.live).items()
            if original.get(name) not in (None, value)
        }
        run.check_changes(changes)
        self.processes.from_first(lambda: run.rewind(learner.step))
        self._saved = learner.step
        if changes:
            self.change(changes)

    def takes_turn(self) -> bool:
        """Wait while the run is paused, then make the changes asked for; False if it is stopped.

        The first process's changes count for all; any process can be asked to stop.
        """
        timeout = PATIENCE if self.inbox or self.processes.several else None
        changes, stopped = None, False
        while changes is None and not stopped:
            if self.inbox:
                self.inbox.pass_on(self.control, self.learner.step)
            asked = self.control.wait_for_turn(timeout), self.control.stopped
            everyone = self.processes.gather(asked)
            changes, stopped = everyone[0][0], any(stops for _, stops in everyone)
        if changes:
            self.change(changes)
        return not stopped

    def change(self, changes: Mapping[str, float]) -> None:
        """Set new values of live settings, which are not in a checkpoint yet."""
        self.learner.change(changes)
        self._saved = -1

    @property
    def evaluates(self) -> bool:
        """Whether to evaluate after the step just done."""
        return self.rhythm.evaluates(self.learner.step, self.learner.total_steps)

    @property
    def checkpoint_due(self) -> bool:
        """Whether to write a checkpoint after the step just done; records do not depend on it."""
        step, every = self.learner.step, self.job.config.checkpoint_every
        if self.run is None:
            return False
        seconds = max(CHECKPOINT_SECONDS, self._took / CHECKPOINT_SHARE)
        late = every > 0 and time.monotonic() - self._since >= seconds
        due = late or step == self.learner.total_steps
        due = self.rhythm.saves(step, self.learner.total_steps) or due
        return self.processes.from_first(lambda: due)

    def save(self) -> None:
        """Write a checkpoint."""
        started, learner = time.monotonic(), self.learner
        live = self.job.live.as_dict()
        learner.check_weights()
        from_first = self.processes.from_first
        write = partial(save_state, learner)
        self.run.save_checkpoint(write, from_first=from_first, step=learner.step, **live)
        self._since, self._saved = time.monotonic(), learner.step
        self._took = self._since - started
        for callback in self.callbacks:
            callback.on_checkpoint(learner.step)

    def evaluated(self, record: StepRecord) -> StepRecord:
        """Evaluate and write the record with the results; samples are written before it."""
        started, job = time.perf_counter(), self.job
        seed = job.config.seed * 1_000_003 + record.step
        # Summing over all answers doubles the time: only at every other evaluation, and the last.
        listed = _due(record.step, 2 * job.config.eval_every)
        listed |= record.step == self.learner.total_steps
        moved = record.step > 0
        values = evaluate(job, job.live.beta, seed, self._wait, moved=moved, listed=listed)
        if not moved:
            values |= reference_score(job, seed)
        samples = answers(job, record.step)
        values |= samples_cut(samples)
        if samples:
            if self.writes:
                self.writes.append_samples(samples)
            for callback in self.callbacks:
                callback.on_sample(samples)
        timing = {**record.timing, "evaluation_seconds": time.perf_counter() - started}
        record = replace(record, values={**record.values, **values}, timing=timing)
        self.note(record)
        return record

    def note(self, record: StepRecord) -> None:
        """Write a record, and pass it to the callbacks."""
        self._doing = None
        if self.writes:
            self.writes.append(record)
        for callback in self.callbacks:
            callback.on_step(record)

    def _wait(self, what: str, done: int, total: int) -> None:
        self._doing = what, done, total
        for callback in self.callbacks:
            callback.on_wait(what, done, total)


def _has_checkpoint(run: Run) -> bool:
    """Whether there is a checkpoint to resume from, which is then checked."""
    if run.checkpoint is None:
        run.rewind(-1)
        return False
    run.check()
    return True


def _last_threads(records: Sequence[StepRecord]) -> int | None:
    """The number of threads that a resumed run last changed to, if it did."""
    changes = [record[KEY] for record in records if KEY in record.values]
    return int(changes[-1]) if changes else None


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
