"""Wrong labels planted on purpose: to see whether they are found again."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dpo_lab.data.preferences import Preferences


def flip_labels(
    preferences: Preferences, share: float, seed: int = 0
) -> tuple[Preferences, Tensor]:
    """Turn a share of the labels around: chosen and rejected change places.

    Args:
        preferences: The pairs.
        share: Share of the pairs, in [0, 1]; the nearest whole number of them is flipped.
        seed: Which ones.

    Returns:
        The pairs in their order, some of them flipped; and which, `(pairs,)`, true where flipped.

    Raises:
        ValueError: If the share is out of range.
    """
    if not 0 <= share <= 1:
        raise ValueError(
            f"share={share}: must be in [0, 1], the part of the labels that is turned around. "
            "Give 0.1 for ten in a hundred."
        )
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randperm(len(preferences), generator=generator)
    flipped = torch.zeros(len(preferences), dtype=torch.bool)
    flipped[picked[: round(share * len(preferences))]] = True
    pairs = tuple(
        pair.swapped() if turned else pair
        for pair, turned in zip(preferences, flipped.tolist(), strict=True)
    )
    return replace(preferences, pairs=pairs), flipped
