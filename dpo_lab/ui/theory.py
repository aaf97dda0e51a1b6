"""The exact frontier behind a run, ready to be drawn, and the run's distance from it in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from dpo_lab.objective.optimum import Frontier, FrontierPoint
from dpo_lab.training.history import History

BETAS = (math.inf, *np.geomspace(300, 0.01, 80).tolist())


@dataclass(frozen=True, eq=False)
class Theory:
    """A frontier as a curve.

    Attributes:
        frontier: The exact frontier.
        curve: `(points, 2)`: KL in nats, rising, and the most reward that any policy has there.
    """

    frontier: Frontier
    curve: np.ndarray

    @classmethod
    def of(cls, frontier: Frontier) -> Theory:
        """The curve of a frontier."""
        points = frontier.curve(list(BETAS))
        return cls(frontier, np.array([(point.kl, point.reward) for point in points]))

    @cache  # noqa: B019  a theory lives as long as its workbench
    def star(self, beta: float) -> FrontierPoint:
        """pi* at a beta."""
        return self.frontier.at(beta)

    def reward_at(self, kl: float) -> float:
        """The most reward that any policy of this KL has."""
        return float(np.interp(kl, *self.curve.T))

    def up_to(self, kl: float) -> np.ndarray:
        """The curve from KL 0 to this KL, `(points, 2)`."""
        inside = self.curve[self.curve[:, 0] < kl]
        return np.vstack([inside, [(kl, self.reward_at(kl))]])


def distance(records: History, theory: Theory | None) -> str:
    """How far a run is from what is possible, in words; nothing where that is not known."""
    path = records.columns("kl/policy", "score/policy")
    if theory is None or not len(path) or path[-1, 1] <= 0:
        return ""
    kl, score = path[-1, 1:]
    best, start = theory.reward_at(kl), theory.curve[0, 1]
    star = theory.star(float(records[-1].beta))
    return (
        f"At a KL of {kl:.2f} nats no policy scores more than {best:.2f}; this one scores "
        f"{score:.2f}: {(score - start) / (best - start):.0%} of the reward that can be gained "
        f"there. π* at β {records[-1].beta:.3g} has a KL of {star.kl:.2f} and scores "
        f"{star.reward:.2f}."
    )
