"""Learning-rate schedules with warm-up: constant, linear, cosine."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def schedule_factor(kind: Schedule, done: int, warmup: int, total: int) -> float:
    """Learning rate of the next step as a share of its peak; above 0 in every step of a run.

    With `N` steps, `W` of them warm-up, step `n` (counted from 1) has

        n / (W + 1)                                 up to n = W, then
        1                                           `constant`
        (N - n + 1) / (N - W)                       `linear`
        (1 + cos(pi (n - W - 1) / (N - W))) / 2     `cosine`

    so step `W + 1` is at the peak; linear and cosine would reach 0 one step after the last one.

    Args:
        kind: Name of the schedule.
        done: Steps done, `n - 1`.
        warmup: `W`.
        total: `N`.

    Source:
        The warm-up is that of the DPO authors' code, which also starts above 0.
    """
    if done < warmup:
        return (done + 1) / (warmup + 1)
    if kind == "constant":
        return 1.0
    if done >= total:
        return 0.0
    part = (done - warmup) / (total - warmup)
    return 1 - part if kind == "linear" else (1 + math.cos(math.pi * part)) / 2
