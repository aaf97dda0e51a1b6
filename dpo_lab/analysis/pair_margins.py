"""What a run thinks of every pair: its reward margin, and labels that it doubts."""

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
from dpo_lab.training.setup import Job, tokenize

Order = Literal["disagreement", "log-probability", "change"]
ORDERS: dict[Order, str] = {
    "disagreement": "label and model disagree most",
    "log-probability": "rejected answer still the likelier one",
    "change": "moved most by training",
}
"""Ways to sort pairs, and what stands on top."""


@dataclass(frozen=True, eq=False)
class PairMargins:
    """Pairs with what policy and reference give them.

    Attributes:
        preferences: The pairs that could be tokenised, as text.
        tokens: Their ids, in the same order.
        logps: Log-probabilities, each `(pairs,)`, nats: those that the loss saw, so under
            `ld_alpha` what the longer response has more counts less.
        beta: Of the reward.
    """

    preferences: Preferences
    tokens: TokenizedPairs
    logps: PairLogps
    beta: float

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.tokens)

    @property
    def before(self) -> Tensor:
        """`log pi_ref(y_w|x) - log pi_ref(y_l|x)`, `(pairs,)`, nats: how far chosen leads.

        No margin in the sense of the glossary, which is one of log-ratios: `after - before`.
        """
        return self.logps.reference_chosen - self.logps.reference_rejected

    @property
    def after(self) -> Tensor:
        """`log pi(y_w|x) - log pi(y_l|x)`, `(pairs,)`, nats: the same by the policy."""
        return self.logps.policy_chosen - self.logps.policy_rejected

    @property
    def reward_margins(self) -> Tensor:
        """`beta * (after - before)`, `(pairs,)`: what the DPO loss sees, `ld_alpha` included.

        Other losses, and DPO with another `f_divergence_type`, see something else of the same
        log-probabilities.
        """
        return self.beta * self.logps.margins

    @property
    def label_probability(self) -> Tensor:
        """`sigmoid(reward_margins)`, `(pairs,)`; small where model and label disagree.

        It is the Bradley-Terry probability of the label where beta x log-ratio is the implicit
        reward: where the run's configuration `aims_at_optimum`, so under `sigmoid` and `robust`
        without smoothing, divergence or `ld_alpha`. Under any other loss it only sorts and squeezes
        the margins; `rewards` in `LOSSES` says what they are.
        """
        return torch.sigmoid(self.reward_margins)

    def order(self, by: Order = "disagreement") -> Tensor:
        """Indices of the pairs, those first that the order is about.

        Args:
            by: `disagreement`: the labels that the model finds least likely, so the likely
                mislabelled ones. `log-probability`: the lowest `after`, pairs whose rejected answer
                the policy would still rather say. `change`: the largest absolute reward margin.

        Raises:
            ValueError: If there is no such order.
        """
        if by not in get_args(Order):
            raise ValueError(f"by={by!r}: unknown order. Use one of {', '.join(ORDERS)}.")
        # By the reward margin itself: far out, two probabilities of a label may round to the same.
        keys = {
            "disagreement": self.reward_margins,
            "log-probability": self.after,
            "change": -self.reward_margins.abs(),
        }
        return keys[by].argsort(stable=True)

    def true_margins(self) -> Tensor:
        """Ground-truth score of chosen minus rejected, `(pairs,)`, float64.

        Raises:
            ValueError: If the data set has no ground truth.
        """
        score = self.preferences.score
        if score is None:
            raise ValueError(
                f"{self.preferences.report.source}: has no ground-truth score, so no oracle can "
                "rank its pairs. Use reviews, or give preferences_from_rows a score."
            )
        gaps = []
        for pair in self.preferences:
            prompt = prompt_text(pair.prompt)
            sides = (response_text(side) for side in (pair.chosen, pair.rejected))
            chosen, rejected = (score(prompt, side) for side in sides)
            gaps.append(chosen - rejected)
        return torch.tensor(gaps, dtype=torch.float64)


def score_pairs(job: Job, preferences: Preferences, beta: float | None = None) -> PairMargins:
    """Score pairs with a job's policy, as it is now, and its reference.

    Args:
        job: From `prepare`, with its reference kept if it was trained since.
        preferences: Any pairs: those it was trained on, or others.
        beta: Of the reward; by default the job's beta now, which is what its run ended with.

    Raises:
        ValueError: If beta is not above 0.
    """
    beta = job.live.beta if beta is None else beta
    if not beta > 0:
        raise ValueError(f"beta={beta!r}: must be > 0. Take the beta that the run ended with.")
    tokens = tokenize(job.config, preferences, job.policy.tokenizer, job.policy.encoder.vocabulary)
    by_row = {pair.row: pair for pair in preferences}
    return PairMargins(
        replace(preferences, pairs=tuple(by_row[pair.row] for pair in tokens)),
        tokens,
        pair_logps(job, tokens),
        beta,
    )


def pair_logps(job: Job, tokens: TokenizedPairs) -> PairLogps:
    """Log-probabilities of pairs by policy and reference as they are now, each `(pairs,)`, nats.

    As the job's loss sees them: tokens weigh what `ld_alpha` says.
    """
    policy = logps_of(job, job.scorer, tokens.pairs)
    with job.reference.active() as scorer:
        return PairLogps(*policy, *logps_of(job, scorer, tokens.pairs))


def mean_scores(several: Sequence[PairMargins]) -> PairMargins:
    """The mean of several runs' log-probabilities, free of the accidents of any one of them.

    Args:
        several: Scores of the same pairs at the same beta, by runs that differ in their seed, say.

    Raises:
        ValueError: If there are none, or they are not of the same pairs and beta.
    """
    first = several[0] if several else None
    if first is None or any(
        one.tokens.pairs != first.tokens.pairs or one.beta != first.beta for one in several
    ):
        raise ValueError(
            f"{len(several)} scores: a mean needs at least one, and all of the same pairs at one "
            "beta. Score the same preferences with every run."
        )
    means = {
        name: torch.stack([getattr(one.logps, name) for one in several]).mean(dim=0)
        for name in LOGPS
    }
    return replace(first, logps=PairLogps(**means))


def precision_at(order: Tensor, wanted: Tensor, count: int | None = None) -> float:
    """Share of the first pairs of a ranking that are among those wanted.

    Args:
        order: Indices, the first suspected most.
        wanted: `(pairs,)`, true where the pair is to be found.
        count: How many of the first; by default as many as are wanted.

    Raises:
        ValueError: If none is wanted and no count is given.
    """
    count = int(wanted.sum()) if count is None else count
    if count < 1:
        raise ValueError(
            f"count={count}: the share of no pairs is no number. Give at least 1, or plant some."
        )
    return wanted[order[:count]].double().mean().item()
