"""LD-DPO's weight of long responses, and WPO's weight of pairs."""

from __future__ import annotations

import torch
from torch import Tensor


def length_weighted_logps(logps: Tensor, shared_logps: Tensor, ld_alpha: float) -> Tensor:
    """LD-DPO: tokens up to the shared length of a pair count in full, those beyond by alpha.

    The shared length of a pair is that of its shorter response. With alpha 1 it is DPO, with 0 the
    excess does not count. Linear: `shared + alpha * (whole - shared)`.

    Args:
        logps: `log pi(y|x)`, any shape, nats.
        shared_logps: `log pi(y[:n]|x)` of the part up to the shared length n, the same shape.
        ld_alpha: Weight of the excess, in [0, 1].

    Returns:
        The same shape, nats.

    Source:
        Liu et al. 2024 (LD-DPO, arXiv 2409.06411), Eq. 10 and 11, as TRL computes it.
    """
    return shared_logps + ld_alpha * (logps - shared_logps)


def wpo_weights(aligned_chosen: Tensor, aligned_rejected: Tensor) -> Tensor:
    """WPO's weight of each pair: how likely the policy itself would be to say both responses.

    `exp(mean over y_w of a_t) * exp(mean over y_l of a_t)` with `a_t = log p(y_t) - log sum_v
    p(v)^2`: about 1 for responses like the policy's own samples, near 0 for what it would never
    say, above 1 where its likeliest tokens stand. As in TRL, nothing bounds it.

    Args:
        aligned_chosen: `(pairs,)`, mean of `a_t` over the chosen responses' tokens.
        aligned_rejected: `(pairs,)`, the same of the rejected.

    Returns:
        `(pairs,)`, to be taken as a constant.

    Source:
        Zhou et al. 2024 (WPO, arXiv 2406.11827), Eq. 2 with sampled alignment.
    """
    return torch.exp(aligned_chosen + aligned_rejected).detach()
