"""The exact frontier behind a run, ready to be drawn, and the run's distance from it in words."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import numpy as np

from dpo_lab.models.enumeration import enumerable
from dpo_lab.models.world import World
from dpo_lab.objective.optimum import Frontier, FrontierPoint
from dpo_lab.training.history import History
from dpo_lab.training.setup import Job

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


class Theories:
    """The frontiers of a workbench's runs, each computed once, beside the training."""

    def __init__(self) -> None:
        self._computed: dict[tuple, Theory | None] = {}
        self._of_run: dict[str, tuple | None] = {}
        self._key: tuple | None = None
        self._wanted: tuple | None = None

    def begin(self) -> None:
        """A run begins, and nothing is known of it yet."""
        self._key = self._wanted = None

    def prepared(self, job: Job) -> None:
        """In the run's thread, before it trains: note what its frontier is computed from."""
        self._key = _key(job)
        if self._key and self._key not in self._computed:
            self._wanted = self._key, deepcopy(job.policy), job.prompts, job.score

    def warm(self, job: Job) -> None:
        """Compute a job's frontier here and now, for the runs to come."""
        key = _key(job)
        if key:
            self._compute(key, job.policy, job.prompts, job.score)

    def compute(self) -> bool:
        """Compute what is wanted, which takes a second.

        Returns:
            Whether there was anything to compute.
        """
        if self._wanted is None:
            return False
        wanted, self._wanted = self._wanted, None
        self._compute(*wanted)
        return True

    def _compute(self, key: tuple, *inputs) -> None:
        try:
            self._computed[key] = Theory.of(World.of(*inputs).frontier)
        except ValueError:  # it says more than can be listed
            self._computed[key] = None

    @property
    def current(self) -> Theory | None:
        """The frontier of the run that is going on, where it is known."""
        return self._computed.get(self._key)

    def shelve(self, name: str) -> None:
        """The run has ended, and has a name from now on."""
        self._of_run[name] = self._key

    def of(self, name: str) -> Theory | None:
        """The frontier of a run that has ended, where it is known."""
        return self._computed.get(self._of_run.get(name))


def _key(job: Job) -> tuple | None:
    """What a job's frontier is computed from; none where it cannot be."""
    if job.score is None or not job.prompts or not enumerable(job.policy):
        return None
    return job.fingerprint, json.dumps(job.prompts), job.score


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
