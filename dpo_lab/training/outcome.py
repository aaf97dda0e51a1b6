"""Outcome of training: scores of answers to held-out prompts, before and after, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from typing import Any

import torch

from dpo_lab.data.wilson import Z95, wilson
from dpo_lab.models.loading import LanguageModel
from dpo_lab.objective.kl import Estimate
from dpo_lab.training.answers import draw, rewards_of
from dpo_lab.training.job import Job, Progress, naming

GREEDY_PROMPTS = 200
SAMPLED_ANSWERS = 500


@dataclass(frozen=True)
class MeanCI:
    """A mean score with its 95 % interval.

    Attributes:
        mean: Mean over answers.
        low: Lower end.
        high: Upper end.
        n: Number of answers.
    """

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> MeanCI:
        """Wilson's interval if every value is 0 or 1, else the normal interval.

        Source:
            Wilson 1927; at shares near 0 and 1 it stays inside [0, 1].
        """
        estimate = Estimate.of(torch.tensor(values))
        mean, n = estimate.mean, estimate.n
        if set(values) <= {0.0, 1.0}:
            return cls.of_share(mean, n)
        half = Z95 * estimate.stderr
        return cls(mean, mean - half, mean + half, n)

    @classmethod
    def of_share(cls, share: float, n: int) -> MeanCI:
        """Wilson's interval of a share of `n` answers.

        Source:
            Wilson 1927; at shares near 0 and 1 it stays inside [0, 1].
        """
        return cls(share, *wilson(share, n), n)


@dataclass(frozen=True)
class Outcome:
    """Scores of reference and policy on the same held-out prompts.

    Attributes:
        what: How the answers were generated, as text for people.
        before: Score of the reference.
        after: Score of the policy.
    """

    what: str
    before: MeanCI
    after: MeanCI

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in `summary.json`."""
        return asdict(self)


def measure_outcome(job: Job, progress: Progress | None = None) -> Outcome | None:
    """Score answers of reference and policy to held-out prompts.

    With many prompts, each gets one greedy answer; with few (the micro world has five), answers are
    sampled at temperature 1, spread evenly over the prompts.

    Args:
        job: A job whose policy has been trained.
        progress: Called with the current work, how much is done, and the total.

    Returns:
        Both scores; None without a ground truth or without held-out prompts.
    """
    if job.reward_fn is None or not job.prompts:
        return None
    greedy = len(job.prompts) >= GREEDY_PROMPTS // 4
    if greedy:
        prompts = job.prompts[:GREEDY_PROMPTS]
        what = f"greedy answers to {len(prompts)} {job.prompt_kind}s"
    else:
        prompts = list(islice(cycle(job.prompts), SAMPLED_ANSWERS))
        what = f"{len(prompts)} sampled answers to {len(job.prompts)} {job.prompt_kind}s"

    def score(model: LanguageModel, who: str) -> MeanCI:
        temperature = 0.0 if greedy else 1.0
        doing = naming(progress, who)
        answers = draw(job, model, prompts, job.config.seed, doing, temperature=temperature)
        return MeanCI.of(rewards_of(job, job.reward_fn, prompts, answers))

    with job.reference.active() as reference:
        before = score(reference.language_model, "answers of the reference")
    return Outcome(what, before, score(job.policy, "answers of the policy"))
