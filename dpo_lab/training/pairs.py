"""Tokenised preference pairs with their reference log-probabilities; batches of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dpo_lab.data.batching import integers
from dpo_lab.data.end_tokens import Ids
from dpo_lab.data.pair_ids import TokenizedPair
from dpo_lab.data.token_ids import count_scored
from dpo_lab.data.tokenized_pairs import TokenizedPairs
from dpo_lab.objective.pair_logps import PairLogps


@dataclass(frozen=True, eq=False)
class PairBatch:
    """Pairs that are processed together: a micro-batch, or all pairs of an optimiser step.

    Attributes:
        pairs: The pairs as token ids.
        logps: Their reference log-probabilities and lengths; the policy's values equal the
            reference's until `with_policy` replaces them.
    """

    pairs: Sequence[TokenizedPair]
    logps: PairLogps

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.pairs)


@dataclass(frozen=True, eq=False)
class PairsWithReference:
    """Tokenised pairs, and `log pi_ref` of those that the run uses.

    Attributes:
        tokens: The pairs.
        reference: `(2, pairs)`, `log pi_ref(y_w|x)` and `log pi_ref(y_l|x)` as the run's loss uses
            them (with `ld_alpha`), nats; 0 where `scored` is false.
        scored: `(pairs,)`, whether the reference has scored the pair, that is, any step uses it.
        ranked: Whether the loss needs to know which pairs share prompt and chosen response.
    """

    tokens: TokenizedPairs
    reference: Tensor
    scored: Tensor
    ranked: bool = False

    @classmethod
    def of(
        cls, tokens: TokenizedPairs, indices: Sequence[int], values: Tensor, ranked: bool = False
    ) -> PairsWithReference:
        """Pairs with reference values for some of them.

        Args:
            tokens: The pairs.
            indices: Indices of the scored pairs.
            values: `(2, indices)`, their reference log-probabilities.
            ranked: As the attribute.
        """
        reference = values.new_zeros(2, len(tokens))
        reference[:, list(indices)] = values
        scored = torch.zeros(len(tokens), dtype=torch.bool)
        scored[list(indices)] = True
        return cls(tokens, reference, scored, ranked)

    @cached_property
    def lengths(self) -> Tensor:
        """Scored tokens of the chosen and of the rejected responses, `(2, pairs)`."""
        sides = [
            [count_scored(side) for side in (pair.chosen, pair.rejected)]
            for pair in self.tokens.pairs
        ]
        return torch.tensor(sides, dtype=torch.float32).view(-1, 2).T

    @cached_property
    def score_margins(self) -> Tensor | None:
        """Score of chosen minus that of rejected, `(pairs,)`, NaN where unknown; or None at all."""
        margins = [pair.score_margin for pair in self.tokens.pairs]
        if all(margin is None for margin in margins):
            return None
        return torch.tensor([math.nan if margin is None else margin for margin in margins])

    @cached_property
    def rankings(self) -> Tensor:
        """A number for each pair, `(pairs,)`: the same where prompt and chosen response are."""
        numbers: dict[tuple[Ids, Ids], int] = {}
        keys = [(pair.prompt, pair.chosen) for pair in self.tokens.pairs]
        return torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys])

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.tokens)

    def batch(self, indices: Sequence[int], mean_chosen_length: float | None = None) -> PairBatch:
        """Selected pairs as a batch.

        Args:
            indices: Indices of the pairs, in the order of the batch.
            mean_chosen_length: Mean over the optimiser's batch, if these pairs are a part of one.

        Raises:
            ValueError: If the reference has not scored one of them.
        """
        columns = integers(indices)
        if not self.scored[columns].all():
            raise ValueError(
                "a pair without reference values: no step of the run uses it. Prepare the job with "
                "settings that use it."
            )
        reference = self.reference[:, columns]
        margins = self.score_margins
        logps = PairLogps(
            *reference,
            *reference,
            *self.lengths[:, columns],
            mean_chosen_length,
            None if margins is None else margins[columns],
            self.rankings[columns] if self.ranked else None,
        )
        return PairBatch([self.tokens[index] for index in indices], logps)
