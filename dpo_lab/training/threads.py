"""The number of torch threads of a run, lowered while other processes use the cores.

The number decides the order of sums, and so the last bits of a record. It is therefore recorded in
the run, and a resumed run takes it from there.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from dataclasses import replace

import torch

from dpo_lab.kernels.threads import (
    hold_threads,
    release_threads,
    say_that_threads_spin,
    waits_passively,
)
from dpo_lab.training.records import StepRecord

logger = logging.getLogger(__name__)

TAKEN = 0.65
"""If threads get less than this share of a step's time on a core, the cores are busy."""
WATCHED = 3
"""Number of steps over which that share is measured."""
SHORT = 0.2
"""Steps of fewer seconds are not measured: call overhead dominates them."""
KEY = "change/threads"
"""Logged on the first step with another number of threads."""


class RunThreads:
    """The threads of one run: set at its start, adapted after every step, restored at its end.

    They are adapted only on the CPU: elsewhere a step waits for the device, so little processor
    time does not mean that other processes use the cores.

    Args:
        at_most: The number at the start, restored when the cores are free again.
    """

    def __init__(self, at_most: int):
        self.at_most = self.number = at_most
        self._before: int | None = None
        self._watching = False
        self._seen: deque[tuple[float, float]] = deque(maxlen=WATCHED)
        self._changed = False

    def take(self, device: torch.device, number: int | None = None) -> None:
        """Set the number of threads.

        Args:
            device: The model's device.
            number: The last number of a resumed run.
        """
        self.number = number or self.number
        self._watching = device.type == "cpu"
        self._before = hold_threads()
        torch.set_num_threads(self.number)
        if self._watching and self.number > 1 and not waits_passively():
            say_that_threads_spin()

    def watched(self, record: StepRecord) -> StepRecord:
        """Measure a step's times, and change the number for the next step if the cores are busy.

        Args:
            record: Record of the step, with `seconds` and `processor_seconds` in its timing.

        Returns:
            The record; it contains the number if this was the first step with it.
        """
        if not self._watching:
            return record
        if self._changed:
            self._changed = False
            record = replace(record, values={**record.values, KEY: self.number})
        wall, processor = record.timing["seconds"], record.timing["processor_seconds"]
        if wall >= SHORT:
            self._seen.append((wall, processor))
        if len(self._seen) == WATCHED:
            wall, processor = map(sum, zip(*self._seen, strict=True))
            self._fit(processor / wall)
        return record

    def put_back(self) -> None:
        """Restore the process's number of threads, if it was changed."""
        if self._before is not None:
            release_threads(self._before)
            self._before = None

    def _fit(self, cores: float) -> None:
        """Use as many threads as there were free cores; all again once the machine has room."""
        if self.number > 1 and cores < TAKEN * self.number:
            self._set(max(1, min(self.number - 1, round(cores))), "other processes take the cores")
        elif self.number < self.at_most and _room_for(self.at_most - self.number):
            self._set(self.at_most, "the cores are free again")

    def _set(self, number: int, why: str) -> None:
        logger.warning("%s: threads now %d, before %d.", why, number, self.number)
        self.number, self._changed = number, True
        self._seen.clear()
        torch.set_num_threads(number)


def _room_for(more: int) -> bool:
    """Whether the machine's load over the last minute leaves room for `more` threads."""
    return os.getloadavg()[0] + more <= (os.cpu_count() or 1) + 0.25
