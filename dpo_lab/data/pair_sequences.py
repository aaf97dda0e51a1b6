"""The sequences whose log-probabilities some pairs need, laid out once: chosen, rejected, cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpo_lab.data.pair_ids import TokenizedPair
from dpo_lab.data.text_to_ids import PromptResponse
from dpo_lab.data.token_ids import count_scored, up_to_scored


@dataclass(frozen=True)
class PairSequences:
    """The sequences of some pairs.

    LD-DPO counts what the longer response of a pair has more by alpha. That is linear: it needs
    the log-probability of the whole response, and of its part up to the shared length. The part is
    a sequence like any other: in a prefix tree it costs no token more, and its reference value is
    kept like any other, whatever alpha is.

    Attributes:
        chosen: `(prompt, response)` of the chosen responses.
        rejected: The same of the rejected.
        cut: For LD-DPO: every response that is longer than the other of its pair, cut at the length
            of that one, both in scored tokens.
        longer: Where each of those stands among chosen and rejected, one after the other.
    """

    chosen: tuple[PromptResponse, ...]
    rejected: tuple[PromptResponse, ...]
    cut: tuple[PromptResponse, ...] = ()
    longer: tuple[int, ...] = ()

    @classmethod
    def of(cls, pairs: Sequence[TokenizedPair], cut: bool = False) -> PairSequences:
        """The sequences of some pairs.

        Args:
            pairs: The pairs.
            cut: Whether the cut responses of LD-DPO belong to them.
        """
        chosen = tuple((pair.prompt, pair.chosen) for pair in pairs)
        rejected = tuple((pair.prompt, pair.rejected) for pair in pairs)
        if not cut:
            return cls(chosen, rejected)
        shared = [min(map(count_scored, (pair.chosen, pair.rejected))) for pair in pairs] * 2
        parts = [
            (place, (prompt, up_to_scored(response, length)))
            for place, ((prompt, response), length) in enumerate(
                zip((*chosen, *rejected), shared, strict=True)
            )
            if count_scored(response) > length
        ]
        longer, sequences = zip(*parts, strict=True) if parts else ((), ())
        return cls(chosen, rejected, tuple(sequences), tuple(longer))

    @property
    def all(self) -> list[PromptResponse]:
        """Chosen, then rejected, then the cut ones."""
        return [*self.chosen, *self.rejected, *self.cut]

    @property
    def places(self) -> list[int]:
        """Places in `all` of those that have a response: a single one has none beside it."""
        return [place for place, (_, response) in enumerate(self.all) if response]

    @property
    def scored(self) -> list[PromptResponse]:
        """Those of `all` that have a response."""
        return [sequence for sequence in self.all if sequence[1]]

    def spread(self, logps: Tensor) -> Tensor:
        """Values of `scored` in their places in `all`, 0 elsewhere.

        Args:
            logps: `(scored,)`.
        """
        places = self.places
        if len(places) == len(self.all):
            return logps
        return logps.new_zeros(len(self.all)).index_copy(
            0, torch.tensor(places, device=logps.device), logps
        )

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.chosen)
