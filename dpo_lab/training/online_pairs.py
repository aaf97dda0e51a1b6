"""Online DPO: two answers of the policy to each prompt, a label for them, and a step of DPO."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dpo_lab.data.pair_ids import TokenizedPair
from dpo_lab.data.tokenized_pairs import TokenizedPairs
from dpo_lab.objective.bradley_terry import sample_preferences
from dpo_lab.training.evaluation import logps_of
from dpo_lab.training.groups import Groups, check_drawn, draw_groups
from dpo_lab.training.pair_gradient import PairGradient, PairOutcome
from dpo_lab.training.pairs import PairsWithReference

CHECKED = 4
"""Answers of each batch whose log-probabilities are compared with those they were drawn with."""


@dataclass(frozen=True, eq=False)
class OnlineOutcome:
    """What a step of online DPO has found.

    Attributes:
        of_pairs: Of the pairs that the answers make.
        groups: The answers, two to each prompt.
        labels: How many pairs a label was asked for; a pair of equal answers needs none.
        whole: Whether the log-probabilities of pairs are plain sums over whole answers.
    """

    of_pairs: PairOutcome
    groups: Groups
    labels: int
    whole: bool = True

    @property
    def tokens(self) -> int:
        """Tokens that went through the policy, but for sampling."""
        return self.of_pairs.tokens

    def metrics(self, beta: float, *, first: bool) -> dict[str, float]:
        """As `Outcome.metrics`: those of pairs, and those of `Groups.metrics`."""
        values, kl = self.of_pairs.metrics(beta, first=first), math.nan
        if self.whole:
            kl = (values["logratios/chosen"] + values["logratios/rejected"]) / 2
        values |= self.groups.metrics(beta, kl)
        return values | {"on_policy/labels": self.labels}


class OnlinePairs(PairGradient):
    """The gradient of a loss of pairs, over pairs of the policy's own answers.

    Labels are drawn from Bradley-Terry with the rewards of the answers. The reference stays that of
    the start: if it moved along, nothing would hold the policy back.

    Source:
        Guo et al. 2024 (arXiv 2402.04792), with a reward in place of an annotating model.
    """

    def accumulate(self, indices: Sequence[int], step: int, beta: float) -> OnlineOutcome:
        """As `StepGradient.accumulate`; the batch is the prompts of those pairs."""
        job = self.job
        groups = draw_groups(job, indices, step)
        self._check_drawn(groups)
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        pairs = labelled(groups, generator)
        with torch.no_grad(), job.reference.active() as frozen:
            reference = logps_of(job, frozen, pairs)
        every = range(len(pairs))
        source = PairsWithReference.of(TokenizedPairs(tuple(pairs)), every, reference)
        labels = sum(pair.chosen != pair.rejected for pair in pairs)
        whole = self.config.ld_alpha is None
        return OnlineOutcome(self.descend(source, every, beta), groups, labels, whole)

    @torch.no_grad()
    def _check_drawn(self, groups: Groups) -> None:
        scorer, first = self.job.scorer, groups.completions[:CHECKED]
        batch = scorer.batch(groups.sequences[:CHECKED])
        check_drawn(scorer, first, batch, scorer.token_logps(batch))


def labelled(groups: Groups, generator: torch.Generator) -> list[TokenizedPair]:
    """Pairs of two answers to each prompt, labelled by Bradley-Terry.

    Args:
        groups: Two answers to each prompt, with their rewards.
        generator: Source of randomness, drawn from once for each pair.
    """
    pairs, wins = [], sample_preferences(*groups.rewards.T, generator)
    for row, first_wins in enumerate(wins.tolist()):
        first, second = groups.completions[2 * row : 2 * row + 2]
        chosen, rejected = (first, second) if first_wins else (second, first)
        pairs.append(TokenizedPair(first.prompt, chosen.ids, rejected.ids, row, rendered=True))
    return pairs
