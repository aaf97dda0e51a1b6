"""A run that goes on in a thread of its own, or that one follows: what pages show of both."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dpo_lab.training.control import Control
from dpo_lab.training.history import History
from dpo_lab.training.live_settings import LiveSettings
from dpo_lab.training.records import SampleRecord

if TYPE_CHECKING:
    from dpo_lab.training.config import TrainConfig
    from dpo_lab.training.job import Job


class Follower(Protocol):
    """A thread that displays a run."""

    error: BaseException | None

    def end(self) -> None:
        """The run has ended: display its end, then end this thread."""

    def join(self) -> None:
        """Wait for the end of this thread."""


class OngoingRun(ABC):
    """A run that a thread of this process trains or watches.

    Args:
        folder: Its folder, if it has one.
        control: Pauses, stops and changes the run.

    Attributes:
        config: The settings of the run.
        records: The records so far.
        samples: Answers of the last evaluation.
        job: The job, if this process trains it and has prepared it.
        total_steps: Optimiser steps of the whole run, once they are known.
        doing: The activity between steps, how much of it is done, and its total.
        error: The exception with which the run failed.
        followers: Threads that display the run; `wait` waits for them too.
    """

    config: TrainConfig

    def __init__(self, folder: Path | None, control: Control):
        self.folder, self.control = folder, control
        self.records = History()
        self.samples: list[SampleRecord] = []
        self.job: Job | None = None
        self.total_steps: int | None = None
        self.doing: tuple[str, int, int] | None = ("loading", 0, 0)
        self.error: BaseException | None = None
        self.followers: list[Follower] = []
        self._end: str | None = None
        self._ended = threading.Event()
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="dpo-lab run", daemon=True)

    @property
    @abstractmethod
    def state(self) -> str:
        """One of preparing, training, paused, stopping, done, stopped, failed."""

    @abstractmethod
    def _work(self) -> None:
        """The thread's work; ends with `_has_ended`."""

    @property
    def live(self) -> LiveSettings:
        """Beta and peak learning rate of the newest step."""
        return LiveSettings.after(self.config, self.records)

    @property
    def running(self) -> bool:
        """Whether the run has not ended."""
        return self._end is None

    def stop(self) -> None:
        """End the run after the step in progress."""
        self.control.stop()

    def reach(self, step: int, timeout: float | None = None):
        """Wait until a step is done, or the run has ended.

        Returns:
            The run.

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

    def wait(self, timeout: float | None = None):
        """Wait until the run has ended and its followers have displayed the end.

        Args:
            timeout: Most seconds to wait.

        Returns:
            The run.

        Raises:
            TimeoutError: If the run has not ended in time; it continues.
            BaseException: The exception with which the run or a follower failed.
            KeyboardInterrupt: On an interrupt, after `end`.
        """
        try:
            ended = self._ended.wait(timeout)
        except KeyboardInterrupt:
            self.end()
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

    def end(self) -> None:
        """Stop the run and wait for its end, without raising its error."""
        self.stop()
        self._ended.wait()
        self._join()

    @property
    def _step(self) -> int:
        return self.records[-1].step if self.records else 0

    def _join(self) -> None:
        # Only after the event: an interrupted join would mark the thread as ended (Python 3.11).
        for thread in (self._thread, *self.followers):
            thread.join()

    def _tell(self) -> None:
        """There is news for those that wait in `reach`."""
        with self._news:
            self._news.notify_all()

    def _has_ended(self, state: str) -> None:
        """The run has ended: tell everyone."""
        self.doing = None
        self._end = state
        self._tell()
        for follower in self.followers:
            follower.end()
        self._ended.set()
