"""A run that another process trains, on this machine or on a shared folder: watched and steered.

All is read from the run's folder, and asked through it (`requests.py`), so it does not matter how
many processes train, or where.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_lab.training.heartbeat import Pulse
from dpo_lab.training.history import History
from dpo_lab.training.live_settings import LiveSettings
from dpo_lab.training.ongoing import OngoingRun
from dpo_lab.training.records import SampleRecord, StepRecord
from dpo_lab.training.requests import APPLIED, Ask, LineReader, ask
from dpo_lab.training.runs import Run

if TYPE_CHECKING:
    from dpo_lab.training.config import TrainConfig

LOOKS = 0.2
"""Seconds between two looks into the folder."""


class RemoteControl:
    """Requests to a run that another process trains; they take effect between two steps of it.

    Args:
        folder: The run's folder.

    Attributes:
        asked: The newest value asked for of each live setting, by name, that is not in force yet.
        refused: What the run refused, and why; by the id of the request.
        answered_from: The step from which the last answered request is in force.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.asked: dict[str, float] = {}
        self.refused: dict[str, str] = {}
        self.answered_from: int | None = None
        self.paused = self.resting = self.stopped = False
        self._open: dict[str, dict[str, float]] = {}
        self._held: list[tuple[Ask, dict[str, float]]] | None = None
        self._steps: dict[str, int] = {}
        self._lines = LineReader(folder / APPLIED)

    def set(self, *, beta: float | None = None, learning_rate: float | None = None) -> None:
        """Ask for another beta or peak learning rate.

        Raises:
            ValueError: If a value is not a finite number > 0.
        """
        given = {"beta": beta, "learning_rate": learning_rate}
        values = {name: value for name, value in given.items() if value is not None}
        if values:
            self._ask("change", **values)
            self.asked |= values

    def pause(self) -> None:
        """Ask the run to pause after the step in progress."""
        self._ask("pause")
        self.paused = True

    def resume(self) -> None:
        """Ask a paused run to continue."""
        self._ask("resume")
        self.paused = False

    def step(self, steps: int = 1) -> None:
        """Ask a paused run for more steps.

        Raises:
            ValueError: If `steps` is less than 1.
        """
        self._ask("step", steps=steps)

    def stop(self) -> None:
        """Ask the run to end after the step in progress."""
        self._ask("stop")
        self.stopped = True

    def waits_for_answers(self) -> bool:
        """Whether the run has not answered every request yet."""
        return bool(self._open)

    def look(self, step: int) -> None:
        """Read the run's answers.

        Args:
            step: The newest step in its records.
        """
        for answer in self._lines.new():
            values = self._open.pop(answer.get("id"), None)
            if values is None:  # asked by someone else, or before
                continue
            if "refused" in answer:
                self.refused[answer["id"]] = answer["refused"]
                self._forget(values)
            else:
                self.answered_from = answer["step"]
                self._steps |= dict.fromkeys(values, answer["step"])
        in_force = [name for name, first in self._steps.items() if step >= first]
        for name in in_force:
            del self._steps[name]
            self.asked.pop(name, None)

    def _forget(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            if self.asked.get(name) == value:
                del self.asked[name]

    def hold(self) -> None:
        """Keep requests back until `let_go`: the run has not begun."""
        self._held = []

    def let_go(self) -> None:
        """Make the requests that were kept back."""
        held, self._held = self._held or [], None
        for what, values in held:
            self._ask(what, **values)

    def _ask(self, what: Ask, **values: float) -> None:
        if self._held is None:
            self._open[ask(self.folder, what, **values)] = values
        else:
            self._held.append((what, values))


class FollowedRun(OngoingRun):
    """A run in another process, followed by a thread of this one.

    `wait` and `end` leave the run alone: `end` only stops to follow it.

    Args:
        folder: Its folder, of a run that trains, is yet to begin, or has ended.

    Raises:
        FileNotFoundError: If the folder is not a run.

    Attributes:
        processes: Number of processes that train it, while they do.
    """

    control: RemoteControl

    def __init__(self, folder: str | Path):
        super().__init__(Path(folder), RemoteControl(Path(folder)))
        self.processes = 1
        self._alive: dict[str, Any] | None = None
        self._left = threading.Event()
        self._open()

    def _open(self) -> None:
        """Begin to read the folder."""
        self.run = Run.open(self.folder)
        self.total_steps = self.run.environment.get("total_steps")
        self.doing = None
        self._pulse = Pulse(self.folder)
        self._again()
        self.look()

    @cached_property
    def config(self) -> TrainConfig:
        """The settings that the run began with."""
        return self.run.config

    @property
    def state(self) -> str:
        """One of training, paused, stopping, done, stopped, failed, dead.

        `dead`: the run has not ended, and its process gives no sign of life.
        """
        if self._end:
            return self._end
        if self.control.stopped:
            return "stopping"
        return "paused" if self.control.resting else "training"

    @property
    def alive(self) -> bool:
        """Whether the process that trains the run gave a sign of life at the last look."""
        return self._alive is not None

    @property
    def live(self) -> LiveSettings:
        """Beta and peak learning rate of the newest step, or as the checkpoint says."""
        return super().live if self.records else Run(self.folder).live

    def start(self) -> FollowedRun:
        """Start to follow; returns at once."""
        self._thread.start()
        return self

    def end(self) -> None:
        """Stop to follow; the run goes on."""
        self._left.set()
        self._ended.wait()
        self._join()

    def look(self) -> list[StepRecord]:
        """Read what is new in the folder.

        Returns:
            The new records.
        """
        if self._metrics.cut:  # resumed from an earlier checkpoint
            self._again()
        alive = self._pulse.feel()
        fresh = [StepRecord.from_dict(line) for line in self._metrics.new()]
        self._seconds |= {line.pop("step", None): line for line in self._timing.new()}
        for record in fresh:
            self.records.append(replace(record, timing=self._seconds.pop(record.step, {})))
        for line in self._samples.new():
            sample = SampleRecord(**line)
            self.samples = [s for s in self.samples if s.step == sample.step] + [sample]
        self.control.look(self._step)
        if alive:
            self.processes = alive.get("processes", 1)
            # An evaluation belongs to a step whose record is written when it is over.
            ahead = not self.records or alive.get("step", 0) > self.records[-1].step
            self.doing = tuple(alive["doing"]) if alive.get("doing") and ahead else None
            self.control.resting = alive.get("state") == "paused"
            # What others have asked counts, too; but not before the run has heard of our own.
            if not self.control.waits_for_answers():
                self.control.paused = self.control.resting
        self._alive = alive
        return fresh

    def _again(self) -> None:
        """Read all files from their start."""
        folder = self.run.path
        self.records, self.samples = History(), []
        self._seconds: dict[int, dict[str, float]] = {}  # of steps whose records are not read yet
        self._metrics, self._timing, self._samples = (
            LineReader(folder / name) for name in ("metrics.jsonl", "timing.jsonl", "samples.jsonl")
        )

    def how_it_ended(self) -> str | None:
        """How the run ended, as `state`; None while its process lives."""
        if self._alive:
            return None
        summary = self.run.summary
        if summary["state"] == "unfinished":
            if not self._pulse.stopped:
                return None
            self.error = RuntimeError(
                f"its process has given no sign of life since step {self._step}; go on from its "
                f"last checkpoint: dpo-lab train --resume --out {self.folder}"
            )
            return "dead"
        if summary["state"] == "failed":
            self.error = RuntimeError(summary.get("error") or "failed")
        return summary["state"]

    def _work(self) -> None:
        state = None
        try:
            while state is None and not self._left.wait(LOOKS):
                if self.look():
                    self._tell()
                state = self.how_it_ended()
            self.look()
        except BaseException as error:  # displayed by followers, raised by wait()
            self.error, state = error, "failed"
        finally:
            self._has_ended(state or "left")
