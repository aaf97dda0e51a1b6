"""The exact reward-KL frontier as a curve to plot, and a run's distance from it in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from dpo_lab.models.response_space import LEFT_OUT, MAX_WORDS
from dpo_lab.objective.optimum import Frontier, FrontierPoint
from dpo_lab.training.exact_metrics import known_world, world_key, world_of
from dpo_lab.training.history import History
from dpo_lab.training.job import Job

BETAS = (math.inf, *np.geomspace(300, 0.01, 80).tolist(), 0.0)
LISTED = ("listed/kl", "listed/score")
SAMPLED = ("kl/per_token", "score/policy")
_NO_KL = 1e-4
"""KL in nats below which the reward that can be gained is only rounding error."""


@dataclass(frozen=True, eq=False)
class FrontierCurve:
    """The exact reward-KL frontier, computed at many betas.

    Attributes:
        frontier: The exact frontier.
        curve: `(points, 2)`: KL in nats, increasing, and the highest reward of any policy there.
    """

    frontier: Frontier
    curve: np.ndarray

    @classmethod
    def of(cls, frontier: Frontier) -> FrontierCurve:
        """The curve of a frontier."""
        points = frontier.curve(list(BETAS))
        return cls(frontier, np.array([(point.kl, point.reward) for point in points]))

    @cache  # noqa: B019  a curve lives as long as its workbench
    def star(self, beta: float) -> FrontierPoint:
        """KL and reward of pi* at a beta."""
        return self.frontier.at(beta)

    def reward_at(self, kl: float) -> float:
        """The highest reward of any policy at this KL, as a tight upper bound.

        The frontier is concave with slope beta, so every tangent lies above it.
        """
        return self._tangent(kl)[0]

    def slope_at(self, kl: float) -> float:
        """The reward that one more nat of KL can gain here."""
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
    """The frontiers of a workbench's runs, each computed once."""

    def __init__(self) -> None:
        self._computed: dict[tuple, FrontierCurve] = {}
        self._of_run: dict[str, tuple | None] = {}
        self._key: tuple | None = None

    def begin(self) -> None:
        """A run starts: its frontier is not known yet."""
        self._key = None

    def prepared(self, job: Job) -> None:
        """Note what the run's frontier depends on; called in its thread, before it trains."""
        self._key = world_key(job)

    def warm(self, job: Job) -> None:
        """Compute a job's frontier now, for later runs to use."""
        world, key = world_of(job), world_key(job)
        if world is not None:
            self._computed[key] = FrontierCurve.of(world.frontier)

    def compute(self) -> bool:
        """Compute the frontier of the current run, once its responses are listed.

        Returns:
            Whether a frontier was computed.
        """
        key, world = self._key, known_world(self._key)
        if world is None or key in self._computed:
            return False
        self._computed[key] = FrontierCurve.of(world.frontier)
        return True

    @property
    def current(self) -> FrontierCurve | None:
        """The frontier of the current run, if it is known."""
        return self._computed.get(self._key)

    def shelve(self, name: str) -> None:
        """Keep the frontier of the run that has just ended under the run's name."""
        self._of_run[name] = self._key

    def of(self, name: str) -> FrontierCurve | None:
        """The frontier of a run that has ended, if it is known."""
        return self._computed.get(self._of_run.get(name))


def on_frontier(records: History) -> tuple[str, str]:
    """Keys of KL and score for a run's path: exact ones if it has them, else sampled ones."""
    return LISTED if len(records.columns(*LISTED)) else SAMPLED


def beyond(records: History) -> str:
    """A warning if too many answers exceed the frontier's word limit, else an empty text."""
    last = records.newest("listed/beyond", "kl/per_token", "kl/n")
    if last is None or last["listed/beyond"] <= LEFT_OUT:
        return ""
    error = last.get("kl/per_token_stderr")
    kl = f"{last['kl/per_token']:.3g}" + (f" ± {error:.2g}" if error is not None else "")
    about = "at least about" if last.get("kl/cut") else "about"
    return (
        f"At step {last.step} the policy goes on after {MAX_WORDS} words in "
        f"{last['listed/beyond']:.0%} of {last['kl/n']:.0f} answers. "
        f"The frontier counts an answer up to word {MAX_WORDS} only; whole answers have a KL of "
        f"{about} {kl} nats, measured on these samples."
    )


def distance(records: History, theory: FrontierCurve | None, aims_at_optimum: bool = True) -> str:
    """How close a run is to the frontier, in words; an empty text if that is not known.

    Not every evaluation sums over all answers; beta is that of the step whose numbers are used.

    Args:
        records: The run's records.
        theory: The run's frontier.
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
        # The frontier is that of these prompts: prefer the error for these prompts alone.
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
