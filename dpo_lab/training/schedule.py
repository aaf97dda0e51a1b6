"""Course of the learning rate over a run."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def schedule_factor(kind: Schedule, done: int, warmup: int, total: int) -> float:
    """Share of the peak learning rate in the next step, above 0 in each of a run's steps.

    Of `N` steps with `W` of warm-up, step `n`, from 1, takes

        n / (W + 1)                                 up to n = W, and after it
        1                                           `constant`
        (N - n + 1) / (N - W)                       `linear`
        (1 + cos(pi (n - W - 1) / (N - W))) / 2     `cosine`

    so step `W + 1` is at the peak, and the 0 that linear and cosine fall to is what a step after
    the last one would have.

    Args:
        kind: Name of the course.
        done: Steps done, `n - 1`.
        warmup: `W`.
        total: `N`.

    Source:
        The warm-up is that of the DPO authors' code, which also begins above 0.
    """
    if done < warmup:
        return (done + 1) / (warmup + 1)
    if kind == "constant":
        return 1.0
    if done >= total:
        return 0.0
    part = (done - warmup) / (total - warmup)
    return 1 - part if kind == "linear" else (1 + math.cos(math.pi * part)) / 2
