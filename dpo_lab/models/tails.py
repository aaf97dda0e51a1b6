"""LD-DPO: what the longer response of a pair has more counts less, in policy and reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpo_lab.data.batching import Batch
from dpo_lab.data.encoding import Ids
from dpo_lab.objective.weighting import tail_weights


@dataclass(frozen=True)
class Tails:
    """Which tokens of some responses count less.

    Attributes:
        full: `(responses,)`, how many tokens of each response count in full.
        ld_alpha: Weight of the others, in [0, 1].
    """

    full: Tensor
    ld_alpha: float

    @classmethod
    def of(cls, sequences: Sequence[tuple[Ids, Ids]], ld_alpha: float | None) -> Tails | None:
        """Of pairs, all chosen sequences first, then all rejected; none if nothing is weighed."""
        if ld_alpha is None:
            return None
        lengths = torch.tensor([len(response) for _, response in sequences])
        return cls(lengths.view(2, -1).amin(dim=0).repeat(2), ld_alpha)

    @classmethod
    def joined(cls, parts: Sequence[Tails | None]) -> Tails | None:
        """Of several lists of sequences, one after the other."""
        given = [part for part in parts if part]
        return cls(torch.cat([part.full for part in given]), given[0].ld_alpha) if given else None

    def at(self, indices: Sequence[int]) -> Tails:
        """Those of some of the responses."""
        return Tails(self.full[list(indices)], self.ld_alpha)

    def weights(self, batch: Batch) -> Tensor:
        """Weight of each member's token, `(members,)`."""
        full = self.full.to(batch.response.device)
        return tail_weights(batch.places(), full[batch.response], self.ld_alpha)
