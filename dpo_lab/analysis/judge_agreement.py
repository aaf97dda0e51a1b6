"""Agreement of two judges: the share of equal verdicts, and Cohen's kappa."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from dpo_lab.training.outcome import Z95, MeanCI


@dataclass(frozen=True)
class Agreement:
    """How far two judges agree on the same comparisons.

    Attributes:
        share: Share of comparisons with equal verdicts, with Wilson's interval.
        kappa: Cohen's kappa: 1 is full agreement, 0 what the two would reach by chance with the
            verdicts that each gives; interval by the jackknife. NaN if both give one and the same
            verdict always, where chance agrees too.
    """

    share: MeanCI
    kappa: MeanCI


def agreement(first: Sequence[Hashable], second: Sequence[Hashable]) -> Agreement:
    """Agreement of two judges on the same comparisons.

    Args:
        first: Verdict of one judge on each comparison, such as "A", "B" and "tie".
        second: The other's, in the same order.

    Raises:
        ValueError: If there are none, or not as many of the one as of the other.

    Source:
        Cohen 1960; the jackknife of kappa: Fleiss and Davies 1982.
    """
    n = len(first)
    if n == 0 or n != len(second):
        raise ValueError(
            f"{n} and {len(second)} verdicts: must be as many of both judges, and at least one."
        )
    kinds = {kind: at for at, kind in enumerate(dict.fromkeys([*first, *second]))}
    counts = np.zeros((len(kinds), len(kinds)))
    cells = [(kinds[one], kinds[other]) for one, other in zip(first, second, strict=True)]
    for cell in cells:
        counts[cell] += 1
    share = MeanCI.of_share(float(np.trace(counts)) / n, n)
    kappa = _kappa(counts)
    without = []
    for cell, times in zip(*np.unique(cells, axis=0, return_counts=True), strict=True):
        counts[tuple(cell)] -= 1
        without += [_kappa(counts)] * int(times)
        counts[tuple(cell)] += 1
    error = math.nan
    if n > 1:
        around = np.array(without) - np.mean(without)
        error = math.sqrt((n - 1) / n * float((around**2).sum()))
    return Agreement(share, MeanCI(kappa, kappa - Z95 * error, min(1.0, kappa + Z95 * error), n))


def _kappa(counts: np.ndarray) -> float:
    shares = counts / counts.sum()
    chance = float(shares.sum(0) @ shares.sum(1))
    return (float(np.trace(shares)) - chance) / (1 - chance) if chance < 1 else math.nan
