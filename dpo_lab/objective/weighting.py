"""Weights that lie between the tokens and the loss: LD-DPO's over tokens, WPO's over pairs."""

from __future__ import annotations

import torch
from torch import Tensor


def tail_weights(position: Tensor, shared: Tensor, ld_alpha: float) -> Tensor:
    """LD-DPO's weight of each response token: 1 up to the shared length, alpha beyond.

    The shared length of a pair is that of its shorter response, so only what the longer one has
    more is weighed down: with alpha 1 it is DPO, with 0 the excess does not count.

    Args:
        position: Place of each token in its response, from 0, any shape.
        shared: Shared length of each token's pair, the same shape.
        ld_alpha: Weight of the excess, in [0, 1].

    Returns:
        The same shape.

    Source:
        Liu et al. 2024 (LD-DPO, arXiv 2409.06411), Eq. 10 and 11, as TRL computes it.
    """
    return torch.where(position < shared, 1.0, ld_alpha)


def wpo_weights(aligned_chosen: Tensor, aligned_rejected: Tensor) -> Tensor:
    """WPO's weight of each pair: how likely the policy itself would be to say both answers.

    `exp(mean over y_w of a_t) * exp(mean over y_l of a_t)` with `a_t = log p(y_t) - log sum_v
    p(v)^2`: about 1 for answers like the policy's own draws, near 0 for what it would never say,
    above 1 where its likeliest tokens stand. As in TRL, nothing bounds it.

    Args:
        aligned_chosen: `(pairs,)`, mean of `a_t` over the chosen responses' tokens.
        aligned_rejected: `(pairs,)`, the same of the rejected.

    Returns:
        `(pairs,)`, to be taken as a constant.

    Source:
        Zhou et al. 2024 (WPO, arXiv 2406.11827), Eq. 2 with sampled alignment.
    """
    return torch.exp(aligned_chosen + aligned_rejected).detach()
