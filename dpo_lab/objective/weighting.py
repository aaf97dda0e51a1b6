"""Token weights of LD-DPO (length desensitised) and pair weights of WPO."""

from __future__ import annotations

import torch
from torch import Tensor


def length_weighted_logps(logps: Tensor, shared_logps: Tensor, ld_alpha: float) -> Tensor:
    """LD-DPO: tokens up to the shared length of a pair count in full, tokens after it times alpha.

    The shared length of a pair is the length of its shorter response. Alpha 1 gives DPO; with alpha
    0 the excess does not count. Linear: `shared + alpha * (whole - shared)`.

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
    """WPO's weight of each pair: how likely its two responses are under the policy.

    `exp(mean over y_w of a_t) * exp(mean over y_l of a_t)` with `a_t = log p(y_t) - log sum_v
    p(v)^2`: about 1 for responses like the policy's own samples, near 0 for very unlikely ones,
    above 1 for responses made of its most likely tokens. As in TRL, there is no upper bound.

    Args:
        aligned_chosen: `(pairs,)`, mean of `a_t` over the chosen responses' tokens.
        aligned_rejected: `(pairs,)`, the same for the rejected.

    Returns:
        `(pairs,)`, detached: a constant for the gradient.

    Source:
        Zhou et al. 2024 (WPO, arXiv 2406.11827), Eq. 2 with sampled alignment.
    """
    return torch.exp(aligned_chosen + aligned_rejected).detach()
