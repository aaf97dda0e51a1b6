"""The exact frontier behind a run, ready to be drawn, and the run's distance from it in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from dpo_lab.models.response_space import LEFT_OUT, MAX_WORDS
from dpo_lab.objective.optimum import Frontier, FrontierPoint
from dpo_lab.training.history import History
from dpo_lab.training.listed import known_world, world_key, world_of
from dpo_lab.training.setup import Job

BETAS = (math.inf, *np.geomspace(300, 0.01, 80).tolist(), 0.0)
LISTED = ("listed/kl", "listed/score")
SAMPLED = ("kl/per_token", "score/policy")
_NO_KL = 1e-4
"""Nats under which the reward that can be gained is rounding."""


@dataclass(frozen=True, eq=False)
class FrontierCurve:
    """A frontier as a curve.

    Attributes:
        frontier: The exact frontier.
        curve: `(points, 2)`: KL in nats, rising, and the most reward that any policy has there.
    """

    frontier: Frontier
    curve: np.ndarray

    @classmethod
    def of(cls, frontier: Frontier) -> FrontierCurve:
        """The curve of a frontier."""
        points = frontier.curve(list(BETAS))
        return cls(frontier, np.array([(point.kl, point.reward) for point in points]))

    @cache  # noqa: B019  a theory lives as long as its workbench
    def star(self, beta: float) -> FrontierPoint:
        """pi* at a beta."""
        return self.frontier.at(beta)

    def reward_at(self, kl: float) -> float:
        """The most reward that any policy of this KL has: never less, and hardly more.

        The frontier is concave, and beta is its slope: every tangent lies above it.
        """
        return self._tangent(kl)[0]

    def slope_at(self, kl: float) -> float:
        """What a nat more can gain at this KL."""
        return self._tangent(kl)[1]

    def _tangent(self, kl: float) -> tuple[float, float]:
        slopes = np.array(BETAS[1:])
        rewards = self.curve[1:, 1] + slopes * (kl - self.curve[1:, 0])
        lowest = int(rewards.argmin())
        return float(rewards[lowest]), float(slopes[lowest])

    def up_to(self, kl: float) -> np.ndarray:
        """The curve from KL 0 to this KL, `(points, 2)`."""
        inside = self.curve[self.curve[:, 0] < kl]
        return np.vstack([inside, [(kl, self.reward_at(kl))]])


class FrontierCache:
    """The frontiers of a workbench's runs, each computed once, beside the training."""

    def __init__(self) -> None:
        self._computed: dict[tuple, FrontierCurve] = {}
        self._of_run: dict[str, tuple | None] = {}
        self._key: tuple | None = None

    def begin(self) -> None:
        """A run begins, and nothing is known of it yet."""
        self._key = None

    def prepared(self, job: Job) -> None:
        """In the run's thread, before it trains: note what its frontier is computed from."""
        self._key = world_key(job)

    def warm(self, job: Job) -> None:
        """Compute a job's frontier here and now, for the runs to come."""
        world, key = world_of(job), world_key(job)
        if world is not None:
            self._computed[key] = FrontierCurve.of(world.frontier)

    def compute(self) -> bool:
        """Compute the frontier of the run that is going on, once its world is listed.

        Returns:
            Whether there was anything to compute.
        """
        key, world = self._key, known_world(self._key)
        if world is None or key in self._computed:
            return False
        self._computed[key] = FrontierCurve.of(world.frontier)
        return True

    @property
    def current(self) -> FrontierCurve | None:
        """The frontier of the run that is going on, where it is known."""
        return self._computed.get(self._key)

    def shelve(self, name: str) -> None:
        """The run has ended, and has a name from now on."""
        self._of_run[name] = self._key

    def of(self, name: str) -> FrontierCurve | None:
        """The frontier of a run that has ended, where it is known."""
        return self._computed.get(self._of_run.get(name))


def on_frontier(records: History) -> tuple[str, str]:
    """The keys of KL and score that a run's path is drawn from: exact ones, where it has them."""
    return LISTED if len(records.columns(*LISTED)) else SAMPLED


def beyond(records: History) -> str:
    """A warning in words where the policy goes on after the words that the frontier is about."""
    last = records.newest("listed/beyond", "kl/per_token", "kl/n")
    if last is None or last["listed/beyond"] <= LEFT_OUT:
        return ""
    error = last.get("kl/per_token_stderr")
    kl = f"{last['kl/per_token']:.3g}" + (f" ± {error:.2g}" if error is not None else "")
    about = "at least about" if last.get("kl/cut") else "about"
    return (
        f"At step {last.step} the policy goes on after {MAX_WORDS} words in "
        f"{last['listed/beyond']:.0%} of {last['kl/n']:.0f} answers. "
        f"Beside the frontier an answer counts up to word {MAX_WORDS}; whole, its answers have a "
        f"KL of {about} {kl} nats, measured on these samples."
    )


def distance(records: History, theory: FrontierCurve | None, aims_at_optimum: bool = True) -> str:
    """How far a run is from what is possible, in words; nothing where that is not known.

    Sums over all answers come at every other evaluation: beta is that of the same step.

    Args:
        records: Of the run.
        theory: Its frontier.
        aims_at_optimum: Whether pi* is the optimum of the run's loss.
    """
    keys = on_frontier(records)
    last = records.newest(*keys)
    if theory is None or last is None or last[keys[0]] <= _NO_KL:
        return ""
    kl, score = (last[key] for key in keys)
    best, start = theory.reward_at(kl), theory.curve[0, 1]
    gained, how = (score - start) / (best - start), "exactly"
    share = f"{gained:.0%}"
    if keys is SAMPLED:
        # For these prompts alone, where that is known: the frontier is theirs.
        ends = ("_stderr_samples", "_stderr")
        errors = [[last.get(key + end) for key in keys] for end in ends]
        known = [both for both in errors if None not in both]
        kl_error, score_error = known[0] if known else (math.nan, math.nan)
        error = math.hypot(score_error, gained * theory.slope_at(kl) * kl_error) / (best - start)
        share, how = f"{min(gained, 1.0):.0%} ± {error:.0%}", "on samples"
    words = (
        f"At step {last.step}: at a KL of {kl:.2f} nats no policy scores more than {best:.2f}; "
        f"this one scores {score:.2f}: {share} of the reward that can be gained there, {how}, in "
        f"answers of at most {MAX_WORDS} words."
    )
    beta = last.beta
    if not aims_at_optimum:
        return f"{words} π* at β {beta:.3g} is not the optimum of this loss, and not drawn."
    star = theory.star(beta)
    return f"{words} π* at β {beta:.3g} has a KL of {star.kl:.2f} and scores {star.reward:.2f}."
