"""Agreement of two judges: the share of equal verdicts, and Cohen's kappa."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from dpo_lab.analysis.win_rate import share_interval
from dpo_lab.training.outcome import Z95, MeanCI


@dataclass(frozen=True)
class Agreement:
    """How far two judges agree on the same comparisons.

    Attributes:
        share: Share of comparisons with equal verdicts; each prompt counts once.
        kappa: Cohen's kappa: 1 is full agreement, 0 what the two would reach by chance with the
            verdicts that each gives; interval by the jackknife. NaN if both give one and the same
            verdict always, where chance agrees too.
    """

    share: MeanCI
    kappa: MeanCI


def agreement(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    prompts: Sequence[Hashable] | None = None,
) -> Agreement:
    """Agreement of two judges on the same comparisons.

    Args:
        first: Verdict of one judge on each comparison, such as "A", "B" and "tie".
        second: The other's, in the same order.
        prompts: The prompt of each comparison, or any key for it: intervals are over prompts. By
            default each comparison has its own.

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
    groups: dict[Hashable, np.ndarray] = {}
    for key, one, other in zip(prompts or range(n), first, second, strict=True):
        counts = groups.setdefault(key, np.zeros((len(kinds), len(kinds))))
        counts[kinds[one], kinds[other]] += 1
    whole = sum(groups.values(), np.zeros((len(kinds), len(kinds))))
    share = share_interval([float(np.trace(each) / each.sum()) for each in groups.values()])
    kappa, error, size = _kappa(whole), math.nan, len(groups)
    if size > 1:
        without = np.array([_kappa(whole - each) for each in groups.values()])
        error = math.sqrt((size - 1) / size * float(((without - without.mean()) ** 2).sum()))
    ends = (kappa - Z95 * error, min(1.0, kappa + Z95 * error))
    return Agreement(share, MeanCI(kappa, *ends, size))


def _kappa(counts: np.ndarray) -> float:
    shares = counts / counts.sum()
    chance = float(shares.sum(0) @ shares.sum(1))
    return (float(np.trace(shares)) - chance) / (1 - chance) if chance < 1 else math.nan
