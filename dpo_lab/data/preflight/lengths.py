"""Lengths in tokens, counted exactly whatever the number of rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dpo_lab.data.preflight.column_files import ColumnFiles

LONGEST = 1 << 15
"""Longer ones are counted together."""
BINS = 40
PARTS = ("pair", "prompt", "chosen", "rejected")
"""A pair's length is that of its prompt with the longer response."""


@dataclass(frozen=True)
class Lengths:
    """How many texts there are of each length.

    Attributes:
        counts: By number of tokens.
        longest: The longest.
    """

    counts: np.ndarray
    longest: int

    @property
    def number(self) -> int:
        """Texts counted."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Mean length, tokens."""
        return float(self.counts @ np.arange(len(self.counts))) / max(1, self.number)

    def quantile(self, share: float) -> int:
        """The least length that this share of texts does not exceed."""
        return int(np.searchsorted(np.cumsum(self.counts), share * self.number))

    def above(self, length: int) -> int:
        """How many are longer."""
        return int(self.counts[length + 1 :].sum())

    @property
    def bin_width(self) -> int:
        """Width of bins that reach to the longest but for one in a thousand, tokens."""
        return max(1, -(-(self.quantile(0.999) + 1) // BINS))

    def binned(self, width: int | None = None) -> tuple[list[int], list[int]]:
        """Edges of 40 equal bins from 0, and the number of texts in each.

        The last bin holds all that are longer, too.

        Args:
            width: Of a bin, tokens; by default `bin_width`.
        """
        width = width or self.bin_width
        edges = list(range(0, width * BINS + 1, width))
        sums = np.add.reduceat(np.r_[self.counts, np.zeros(width * BINS, np.int64)], edges)
        last = int(sums[-1])
        found = [int(count) for count in sums[:-1]]
        found[-1] += last
        return edges, found

    def as_dict(self) -> dict[str, Any]:
        """Mean, quantiles, and bins."""
        edges, counts = self.binned()
        shares = {f"p{round(share * 1000) / 10:g}": self.quantile(share) for share in _SHARES}
        return {"mean": self.mean, "longest": self.longest, **shares, "edges": edges} | {
            "counts": counts
        }


_SHARES = (0.5, 0.9, 0.99, 0.999)


def pair_lengths(columns: ColumnFiles) -> dict[str, Lengths]:
    """Lengths of prompts, responses and pairs before any cut, of pairs that have ids."""
    counts = {part: np.zeros(LONGEST + 1, np.int64) for part in PARTS}
    longest = dict.fromkeys(PARTS, 0)
    names = [f"{part}_tokens" for part in PARTS[1:]]
    for _, block in columns.blocks(*names):
        (known,) = np.nonzero(block[1])
        prompt, chosen, rejected = (values[known] for values in block)
        whole = prompt + np.maximum(chosen, rejected)
        for part, values in zip(PARTS, (whole, prompt, chosen, rejected), strict=True):
            counts[part] += np.bincount(np.minimum(values, LONGEST), minlength=LONGEST + 1)
            longest[part] = max(longest[part], _most(values))
    return {part: Lengths(counts[part], longest[part]) for part in PARTS}


def _most(values: Iterable[int]) -> int:
    return int(max(values, default=0))
