"""How many threads a run computes with: what its model is worth, what it began with, what is free.

The number decides in which order sums are taken, hence the last bits of a record: it is part of
what a run writes down, and a run that goes on takes it from there.
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
"""Processor time that each thread gets, over the step's, below which the cores are taken."""
WATCHED = 3
"""Steps over which that is measured."""
SHORT = 0.2
"""Seconds of a step that is too short to tell: calls take its time."""
KEY = "change/threads"
"""Logged on the first step with another number of threads."""


class RunThreads:
    """The threads of one run: set where it begins, watched at every step, put back at its end.

    They are watched on the CPU alone: elsewhere a step waits for the device, and that its threads
    get little processor time does not mean that others take it.

    Args:
        at_most: How many it begins with, and has again when the cores are free.
    """

    def __init__(self, at_most: int):
        self.at_most = self.number = at_most
        self._before: int | None = None
        self._watching = False
        self._seen: deque[tuple[float, float]] = deque(maxlen=WATCHED)
        self._changed = False

    def take(self, device: torch.device, number: int | None = None) -> None:
        """Set them.

        Args:
            device: Where the model is.
            number: What a run that goes on had last.
        """
        self.number = number or self.number
        self._watching = device.type == "cpu"
        self._before = hold_threads()
        torch.set_num_threads(self.number)
        if self._watching and self.number > 1 and not waits_passively():
            say_that_threads_spin()

    def watched(self, record: StepRecord) -> StepRecord:
        """Note a step's times, and change the number for the next one if the cores are taken.

        Args:
            record: Of the step, with `seconds` and `processor_seconds` in its timing.

        Returns:
            The record; with the number in it if this was the first step with it.
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
        """Leave the process with as many threads as it had, if it was changed."""
        if self._before is not None:
            release_threads(self._before)
            self._before = None

    def _fit(self, cores: float) -> None:
        """As many threads as cores were had; all of them again once the machine has room."""
        if self.number > 1 and cores < TAKEN * self.number:
            self._set(max(1, min(self.number - 1, round(cores))), "other processes take the cores")
        elif self.number < self.at_most and _room_for(self.at_most - self.number):
            self._set(self.at_most, "the cores are free again")

    def _set(self, number: int, why: str) -> None:
        logger.warning("%s: threads %d, before %d.", why, number, self.number)
        self.number, self._changed = number, True
        self._seen.clear()
        torch.set_num_threads(number)


def _room_for(more: int) -> bool:
    """Whether the machine's load of the last minute leaves room for some threads more."""
    return os.getloadavg()[0] + more <= (os.cpu_count() or 1) + 0.25
