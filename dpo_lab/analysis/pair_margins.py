"""Reward margin of every pair under a run, and rankings of the pairs that find suspect labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from dpo_lab.data.pairs import prompt_text, response_text
from dpo_lab.data.preferences import Preferences
from dpo_lab.data.tokenized_pairs import TokenizedPairs
from dpo_lab.objective.pair_logps import LOGPS, PairLogps
from dpo_lab.training.evaluation import logps_of
from dpo_lab.training.job import Job
from dpo_lab.training.setup import tokenize

Order = Literal["disagreement", "log-probability", "change"]
ORDERS: dict[Order, str] = {
    "disagreement": "label and model disagree most",
    "log-probability": "rejected answer still the likelier one",
    "change": "moved most by training",
}
"""Ways to sort pairs, and which pairs come first."""


@dataclass(frozen=True, eq=False)
class PairMargins:
    """Pairs with their log-probabilities under policy and reference.

    Attributes:
        preferences: The pairs that could be tokenised, as text.
        tokens: Their ids, in the same order.
        logps: Log-probabilities as used by the loss, each `(pairs,)`, nats: under `ld_alpha`,
            tokens beyond the length of the shorter response count less.
        beta: Beta of the reward.
    """

    preferences: Preferences
    tokens: TokenizedPairs
    logps: PairLogps
    beta: float

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.tokens)

    @property
    def before(self) -> Tensor:
        """`log pi_ref(y_w|x) - log pi_ref(y_l|x)`, `(pairs,)`, nats: the chosen answer's lead.

        This is not the margin, which is the difference of the log-ratios: `after - before`.
        """
        return self.logps.reference_chosen - self.logps.reference_rejected

    @property
    def after(self) -> Tensor:
        """`log pi(y_w|x) - log pi(y_l|x)`, `(pairs,)`, nats: the same under the policy."""
        return self.logps.policy_chosen - self.logps.policy_rejected

    @property
    def reward_margins(self) -> Tensor:
        """`beta * (after - before)`, `(pairs,)`: the input of the DPO loss, `ld_alpha` included.

        Other losses, and DPO with another `f_divergence_type`, use the same log-probabilities
        in another way.
        """
        return self.beta * self.logps.margins

    @property
    def label_probability(self) -> Tensor:
        """`sigmoid(reward_margins)`, `(pairs,)`; small where model and label disagree.

        It is the Bradley-Terry probability of the label if beta x log-ratio is the implicit reward,
        that is if the run's configuration `aims_at_optimum`: under `sigmoid` and `robust` without
        smoothing, divergence or `ld_alpha`. Under any other loss it only maps the margins
        monotonically to (0, 1); `rewards` in `LOSSES` says what they mean.
        """
        return torch.sigmoid(self.reward_margins)

    def order(self, by: Order = "disagreement") -> Tensor:
        """Indices of the pairs, sorted.

        Args:
            by: What comes first. `disagreement`: the labels that the model finds least likely, so
                likely wrong ones. `log-probability`: the lowest `after`, pairs whose rejected
                answer the policy still finds likelier. `change`: the largest absolute margin.

        Raises:
            ValueError: If there is no such order.
        """
        if by not in get_args(Order):
            raise ValueError(f"by={by!r}: unknown order. Use one of {', '.join(ORDERS)}.")
        # Sorted by reward margin, since two extreme probabilities may round to the same value.
        keys = {
            "disagreement": self.reward_margins,
            "log-probability": self.after,
            "change": -self.reward_margins.abs(),
        }
        return keys[by].argsort(stable=True)

    def true_margins(self) -> Tensor:
        """Ground-truth reward of chosen minus rejected, `(pairs,)`, float64.

        Raises:
            ValueError: If the data set has no ground truth.
        """
        reward_fn = self.preferences.reward_fn
        if reward_fn is None:
            raise ValueError(
                f"{self.preferences.report.source}: has no ground-truth score, so no oracle can "
                "rank its pairs. Use reviews, or give preferences_from_rows a reward_fn."
            )
        gaps = []
        for pair in self.preferences:
            prompt = prompt_text(pair.prompt)
            sides = (response_text(side) for side in (pair.chosen, pair.rejected))
            chosen, rejected = (reward_fn(prompt, side) for side in sides)
            gaps.append(chosen - rejected)
        return torch.tensor(gaps, dtype=torch.float64)


def score_pairs(job: Job, preferences: Preferences, beta: float | None = None) -> PairMargins:
    """Score pairs with a job's current policy and its reference.

    Args:
        job: From `prepare`, with its reference kept if it was trained since.
        preferences: Any pairs: those it was trained on, or others.
        beta: Beta of the reward; by default the job's current beta, with which its run ended.

    Raises:
        ValueError: If beta is not above 0.
    """
    beta = job.live.beta if beta is None else beta
    if not beta > 0:
        raise ValueError(f"beta={beta!r}: must be > 0. Take the beta that the run ended with.")
    tokens = tokenize(job.config, preferences, job.policy.tokenizer, job.policy.encoder.vocabulary)
    by_place = {pair.place: pair for pair in preferences}
    return PairMargins(
        replace(preferences, pairs=tuple(by_place[pair.place] for pair in tokens)),
        tokens,
        pair_logps(job, tokens),
        beta,
    )


def pair_logps(job: Job, tokens: TokenizedPairs) -> PairLogps:
    """Log-probabilities of pairs under the current policy and the reference, `(pairs,)`, nats.

    As used by the job's loss: tokens are weighted by `ld_alpha`.
    """
    policy = logps_of(job, job.scorer, tokens.pairs)
    with job.reference.active() as scorer:
        return PairLogps(*policy, *logps_of(job, scorer, tokens.pairs))


def mean_scores(several: Sequence[PairMargins]) -> PairMargins:
    """Mean log-probabilities of several runs, to average out the chance in each of them.

    Args:
        several: Scores of the same pairs at the same beta, for example from runs with other seeds.

    Raises:
        ValueError: If there are none, or they are not of the same pairs and beta.
    """
    first = several[0] if several else None
    if first is None or any(
        run.tokens.pairs != first.tokens.pairs or run.beta != first.beta for run in several
    ):
        raise ValueError(
            f"{len(several)} scores: a mean needs at least one, and all of the same pairs at one "
            "beta. Score the same preferences with every run."
        )
    means = {
        name: torch.stack([getattr(run.logps, name) for run in several]).mean(dim=0)
        for name in LOGPS
    }
    return replace(first, logps=PairLogps(**means))


def precision_at(order: Tensor, wanted: Tensor, count: int | None = None) -> float:
    """Share of the top pairs of a ranking that are wanted ones.

    Args:
        order: Indices, most suspect first.
        wanted: `(pairs,)`, true for the pairs to find.
        count: Number of top pairs; by default the number of wanted ones.

    Raises:
        ValueError: If the count is below 1.
    """
    count = int(wanted.sum()) if count is None else count
    if count < 1:
        raise ValueError(
            f"count={count}: a share of no pairs is undefined. Give 1 or more, or flip some labels."
        )
    return wanted[order[:count]].double().mean().item()
