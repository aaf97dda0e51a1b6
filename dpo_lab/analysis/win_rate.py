"""Win rate of model A over model B from a judge's votes, with its interval, and the judge's bias.

Every prompt counts once, whatever the number of its votes: votes on one prompt (its two orders,
several samples) are not independent, so the interval is over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from dpo_lab.training.outcome import Z95, MeanCI

POWER = 0.8
"""Probability with which a detectable difference is seen."""


@dataclass(frozen=True)
class Votes:
    """Votes of one judge, each on an answer of A beside an answer of B.

    Attributes:
        prompts: `(votes,)`, the prompt of each vote, or any key for it.
        wins: `(votes,)`, 1 where A is better, 0 where B is, 0.5 for a tie.
        place: `(votes,)`, 1 where A's answer was shown first, -1 where B's was, 0 where the judge
            saw no order (a reward model; two equal answers, of which nobody is asked).
        extra_length: `(votes,)`, length of A's answer minus that of B's, in any unit.

    Raises:
        ValueError: If the fields differ in length, or a vote is not in [0, 1].
    """

    prompts: Sequence[Hashable]
    wins: Sequence[float]
    place: Sequence[int]
    extra_length: Sequence[float]

    def __post_init__(self) -> None:
        fields = (self.prompts, self.wins, self.place, self.extra_length)
        sizes = [len(field) for field in fields]
        if len(set(sizes)) > 1:
            raise ValueError(f"votes: fields of {sizes} votes. Give each field one value a vote.")
        if not all(0 <= win <= 1 for win in self.wins):
            raise ValueError("votes: wins outside [0, 1]. Use 1 for A, 0 for B, 0.5 for a tie.")

    def __len__(self) -> int:
        return len(self.wins)

    @property
    def groups(self) -> np.ndarray:
        """`(votes,)`, number of each vote's prompt, from 0."""
        numbers = {key: number for number, key in enumerate(dict.fromkeys(self.prompts))}
        return np.array([numbers[key] for key in self.prompts], dtype=int)


@dataclass(frozen=True)
class WinRate:
    """How often A is better than B.

    Attributes:
        rate: Mean over prompts of the share of votes for A, ties counting half, with interval.
        won: Prompts with more votes for A than for B.
        tied: Prompts with as many.
        lost: Prompts with fewer.
        first: Share of votes for the answer that was shown first, ties counting half; 0.5 without
            a bias. None if the judge sees no order.
        flips: Share of prompts asked in both orders whose votes name different winners; none if
            none was.
        longer: Share of votes for the longer answer, over the votes on answers of different
            length. Above 0.5 the judge prefers length, or the longer answers are better.
        detectable: `detectable_difference` of as many prompts that vary as these do.
    """

    rate: MeanCI
    won: int
    tied: int
    lost: int
    first: MeanCI | None
    flips: MeanCI | None
    longer: MeanCI | None
    detectable: float


def win_rate(votes: Votes) -> WinRate:
    """The win rate of A over B, and what the votes show of the judge's bias.

    Raises:
        ValueError: If there are no votes.
    """
    if not len(votes):
        raise ValueError("no votes: a win rate needs at least one. Ask the judge first.")
    wins = np.asarray(votes.wins, dtype=float)
    values = np.bincount(votes.groups, wins) / np.bincount(votes.groups)
    return WinRate(
        rate=share_interval(values),
        won=int((values > 0.5).sum()),
        tied=int((values == 0.5).sum()),
        lost=int((values < 0.5).sum()),
        first=_preferred(votes, np.asarray(votes.place)),
        flips=_flips(votes),
        longer=_preferred(votes, np.asarray(votes.extra_length)),
        detectable=detectable_difference(len(values), math.sqrt(_variance(values))),
    )


def share_interval(values: Sequence[float] | np.ndarray) -> MeanCI | None:
    """Mean of independent values in [0, 1], with a 95 % interval; none without values.

    Wilson's interval with the effective number of values, `n m (1 - m) / s^2` with mean m and
    variance s^2: ties and halves vary less than wins and losses. For the variance, half a value at
    0 and half a value at 1 are added, so that equal values still have an interval. Of zeros and
    ones alone it is Wilson's own; the normal interval would have no width where all are equal.

    Args:
        values: `(n,)`.

    Source:
        Wilson 1927; effective sample size as in Korn and Graubard 1998, and Dean and Pagano 2015,
        "Evaluating confidence interval methods for binomial proportions in clustered surveys".
    """
    n = len(values)
    if n == 0:
        return None
    mean = float(np.mean(values))
    most = mean * (1 - mean)  # the variance of zeros and ones of this mean
    ratio = min(1.0, _variance(values) / most) if most > 0 else 1.0
    return replace(MeanCI.of_share(mean, n / ratio), n=n)


def detectable_difference(n: int, deviation: float = 0.5) -> float:
    """The smallest distance from a win rate of 0.5 that n prompts show.

    A two-sided test at 5 % finds it with a probability of 80 %:
    `d = (z_0.975 + z_0.8) s / sqrt(n)`.

    Args:
        n: Number of prompts, at least 1.
        deviation: Standard deviation over prompts, s; 0.5 where each is won or lost.

    Source:
        Cohen 1988; for evaluations of language models Miller 2024 (arXiv 2411.00640).
    """
    return _zs() * deviation / math.sqrt(n)


def prompts_needed(difference: float, deviation: float = 0.5) -> int:
    """How many prompts show a distance from 0.5, as in `detectable_difference`.

    Raises:
        ValueError: If the difference is not above 0.
    """
    if not difference > 0:
        raise ValueError(f"difference={difference}: must be above 0, such as 0.05.")
    return math.ceil((_zs() * deviation / difference) ** 2)


def _zs() -> float:
    return Z95 + NormalDist().inv_cdf(POWER)


def _variance(values: Sequence[float] | np.ndarray) -> float:
    """Variance of values to which half a value at 0 and half a value at 1 are added."""
    mean = float(np.mean(values))
    around = float(((np.asarray(values) - mean) ** 2).sum())
    return (around + (mean**2 + (1 - mean) ** 2) / 2) / (len(values) + 1)


def _preferred(votes: Votes, advantage: np.ndarray) -> MeanCI | None:
    """Share of votes for the answer with an advantage: above 0 it is A's, below 0 B's."""
    wins, counted = np.asarray(votes.wins, dtype=float), advantage != 0
    groups, values = votes.groups[counted], np.where(advantage > 0, wins, 1 - wins)[counted]
    counts = np.bincount(groups)
    return share_interval(np.bincount(groups, values)[counts > 0] / counts[counts > 0])


def _flips(votes: Votes) -> MeanCI | None:
    groups, place = votes.groups, np.asarray(votes.place)
    wins = np.asarray(votes.wins, dtype=float)
    both = np.intersect1d(groups[place > 0], groups[place < 0])
    sides = [[wins[(groups == g) & (place == side)].mean() for side in (1, -1)] for g in both]
    return share_interval([float((a - 0.5) * (b - 0.5) < 0) for a, b in sides])
