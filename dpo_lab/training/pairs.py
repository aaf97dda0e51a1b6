"""Preference pairs as a run uses them: in token ids, with what the reference gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dpo_lab.data.batching import integers
from dpo_lab.data.pair_ids import TokenizedPair
from dpo_lab.data.tokenized_pairs import TokenizedPairs
from dpo_lab.objective.pair_logps import PairLogps


@dataclass(frozen=True, eq=False)
class PairBatch:
    """Pairs that go through the model together, a micro-batch or all of an optimiser's step.

    Attributes:
        pairs: In token ids.
        logps: Their reference log-probabilities and lengths; until `with_policy` gives it others,
            the policy is the reference.
    """

    pairs: Sequence[TokenizedPair]
    logps: PairLogps

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.pairs)


@dataclass(frozen=True, eq=False)
class PairsWithReference:
    """Tokenised pairs, and `log pi_ref` of those that the run uses.

    Attributes:
        tokens: The pairs.
        reference: `(2, pairs)`, `log pi_ref(y_w|x)` and `log pi_ref(y_l|x)` as the run's loss sees
            them (`ld_alpha` included), nats; 0 where `scored` is false.
        scored: `(pairs,)`, whether the reference has scored the pair: whether some step uses it.
    """

    tokens: TokenizedPairs
    reference: Tensor
    scored: Tensor

    @classmethod
    def of(
        cls, tokens: TokenizedPairs, indices: Sequence[int], values: Tensor
    ) -> PairsWithReference:
        """Pairs of which some are scored.

        Args:
            tokens: The pairs.
            indices: Those that are scored.
            values: `(2, indices)`, their reference log-probabilities.
        """
        reference = torch.zeros(2, len(tokens))
        reference[:, list(indices)] = values
        scored = torch.zeros(len(tokens), dtype=torch.bool)
        scored[list(indices)] = True
        return cls(tokens, reference, scored)

    @cached_property
    def lengths(self) -> Tensor:
        """Scored tokens of the chosen and of the rejected responses, `(2, pairs)`."""
        sides = [[len(side) for side in (pair.chosen, pair.rejected)] for pair in self.tokens.pairs]
        return torch.tensor(sides, dtype=torch.float32).view(-1, 2).T

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.tokens)

    def batch(self, indices: Sequence[int], mean_chosen_length: float | None = None) -> PairBatch:
        """Some of the pairs, in this order.

        Args:
            indices: Which.
            mean_chosen_length: Over the optimiser's batch that they are a part of.

        Raises:
            ValueError: If the reference has not scored one of them.
        """
        places = integers(indices)
        if not self.scored[places].all():
            raise ValueError(
                "a pair without reference values: no step of the run uses it. Prepare the job with "
                "settings that use it."
            )
        reference = self.reference[:, places]
        logps = PairLogps(*reference, *reference, *self.lengths[:, places], mean_chosen_length)
        return PairBatch([self.tokens[index] for index in indices], logps)
