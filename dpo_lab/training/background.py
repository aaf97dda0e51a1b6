"""A training run in a background thread, watched and controlled from other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Protocol

from dpo_lab.data.builtin import RewardFn
from dpo_lab.data.preferences import Preferences
from dpo_lab.models.handed_over import AnyModel, as_language_model
from dpo_lab.training.callbacks import Callback
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.control import RunControl
from dpo_lab.training.history import History
from dpo_lab.training.live_settings import LiveSettings
from dpo_lab.training.records import SampleRecord, StepRecord
from dpo_lab.training.run_folders import give_back
from dpo_lab.training.run_job import StoppedBeforeTraining, run_job
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import Job


class Follower(Protocol):
    """A thread that displays a run."""

    error: BaseException | None

    def end(self) -> None:
        """The run has ended: display its end, then end this thread."""

    def join(self) -> None:
        """Wait for the end of this thread."""


class BackgroundRun(Callback):
    """One run, prepared and trained in its own thread.

    Args:
        config: The settings of the run.
        model: A model already loaded, instead of `config.model`; a copy of it is trained.
        data: Pairs or rows in memory, instead of `config.data`.
        reward_fn: Ground-truth reward of `(prompt, response)`, instead of the data set's own.
        folder: The run's folder. A run that is already there is resumed; its settings must match,
            except for the live ones. None keeps nothing.
        on_prepared: Called in the run's thread with the job, while policy and reference are equal.

    Attributes:
        records: The records so far.
        samples: Answers of the last evaluation.
        control: Pauses, stops and changes the run.
        job: The job, once it is prepared.
        total_steps: Optimiser steps of the whole run, once it is prepared.
        doing: The activity between steps, how much of it is done, and its total.
        error: The exception with which the run failed.
        followers: Threads that display the run; `wait` waits for them too.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        model: AnyModel | None = None,
        data: Preferences | Iterable[Mapping] | None = None,
        reward_fn: RewardFn | None = None,
        folder: Path | None = None,
        on_prepared: Callable[[Job], None] | None = None,
    ):
        self._on_prepared = on_prepared
        self.config = config
        self.folder = folder
        kept = Run(folder) if folder and Run(folder).exists else None
        self._resume = kept is not None
        self.records = History(kept.records() if kept else ())
        self.samples: list[SampleRecord] = kept.last_samples() if kept else []
        self.control = RunControl()
        self.job: Job | None = None
        self.total_steps: int | None = None
        self.doing: tuple[str, int, int] | None = ("loading", 0, 0)
        self.error: BaseException | None = None
        self.followers: list[Follower] = []
        model = None if model is None else as_language_model(model)
        self._inputs = {"model": model, "data": data, "reward_fn": reward_fn}
        self._end: str | None = None
        self._ended = threading.Event()
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="dpo-lab run", daemon=True)

    @property
    def state(self) -> str:
        """One of preparing, training, paused, stopping, done, stopped, failed."""
        if self._end:
            return self._end
        if self.control.stopped:
            return "stopping"
        if self.job is None:
            return "preparing"
        return "paused" if self.control.resting else "training"

    @property
    def live(self) -> LiveSettings:
        """Beta and peak learning rate of the newest step."""
        return LiveSettings.after(self.config, self.records)

    @property
    def running(self) -> bool:
        """Whether the run has not ended."""
        return self._end is None

    def start(self) -> BackgroundRun:
        """Start the thread; returns at once."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End the run after the step in progress."""
        self.control.stop()

    def reach(self, step: int, timeout: float | None = None) -> BackgroundRun:
        """Wait until a step is done, or the run has ended.

        Raises:
            TimeoutError: If the step is not done in time; the run continues.
        """
        with self._news:
            reached = self._news.wait_for(
                lambda: self._end or (self.total_steps and self._step >= step), timeout
            )
        if not reached:
            raise TimeoutError(f"step {step} is not done after {timeout:g} s; the run goes on.")
        return self

    def wait(self, timeout: float | None = None) -> BackgroundRun:
        """Wait until the run has ended and its followers have displayed the end.

        Args:
            timeout: Most seconds to wait.

        Returns:
            The run.

        Raises:
            TimeoutError: If the run has not ended in time; it continues.
            BaseException: The exception with which the run or a follower failed.
            KeyboardInterrupt: On an interrupt, after stopping the run.
        """
        try:
            ended = self._ended.wait(timeout)
        except KeyboardInterrupt:
            self.stop()
            self._ended.wait()
            self._join()
            raise
        if not ended:
            raise TimeoutError(
                f"still {self.state} after {timeout:g} s, at step {self._step}; the run "
                "goes on. Wait longer, or call stop()."
            )
        self._join()
        for error in (self.error, *(follower.error for follower in self.followers)):
            if error is not None:
                raise error
        return self

    @property
    def _step(self) -> int:
        return self.records[-1].step if self.records else 0

    def end(self) -> None:
        """Stop the run and wait for its end, without raising its error."""
        self.stop()
        self._ended.wait()
        self._join()

    def _join(self) -> None:
        # Only after the event: an interrupted join would mark the thread as ended (Python 3.11).
        for thread in (self._thread, *self.followers):
            thread.join()

    def _work(self) -> None:
        state = "failed"
        try:
            state = self._run()
        except StoppedBeforeTraining:
            state = "stopped"
        except BaseException as error:  # displayed by followers, raised by wait()
            self.error = error
        finally:
            if self.folder:
                give_back(self.folder)
            self.doing = None
            self._end = state
            with self._news:
                self._news.notify_all()
            for follower in self.followers:
                follower.end()
            self._ended.set()

    def _run(self) -> str:
        ended = run_job(
            self.config,
            self.folder,
            resume=self._resume,
            **self._inputs | {"model": deepcopy(self._inputs["model"])},
            measure=False,
            control=self.control,
            callbacks=[self],
        )
        return ended.state

    def on_prepared(self, job: Job) -> None:
        """Keep the job, and pass it to the caller's `on_prepared`."""
        self.job = job
        if self._on_prepared:
            self._on_prepared(job)

    def on_start(self, job: Job, first_step: int, total_steps: int) -> None:
        """Note the number of steps; reload the records of a resumed run from its folder."""
        self.total_steps = total_steps
        kept = Run(self.folder) if self.folder else None
        self.records = History(kept.records() if kept else ())
        self.samples = kept.last_samples() if kept else []
        self.doing = None
        with self._news:
            self._news.notify_all()

    def on_wait(self, what: str, done: int, total: int) -> None:
        """Note the current activity."""
        self.doing = (what, done, total)

    def on_step(self, record: StepRecord) -> None:
        """Keep the record."""
        self.doing = None
        self.records.append(record)
        with self._news:
            self._news.notify_all()

    def on_sample(self, samples: Sequence[SampleRecord]) -> None:
        """Keep the newest answers."""
        self.samples = list(samples)
