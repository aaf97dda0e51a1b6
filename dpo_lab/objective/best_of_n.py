"""Best-of-n: the policy that gives the best of n samples of the reference, in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor


@torch.no_grad()
def best_of_n_logps(reference_logps: Tensor, rewards: Tensor, n: float) -> Tensor:
    """`log pi_n(y|x)` of the best of n samples; of equally good ones each is as likely.

    With F the distribution function of the reward under the reference, a level of reward r has
    probability `F(r)^n - F(r-)^n`, which its responses share as they do under the reference.

    Args:
        reference_logps: `(..., responses)`, of all responses, nats.
        rewards: `(..., responses)`.
        n: Number of samples, at least 1; it need not be whole.

    Returns:
        `(..., responses)`, nats, float64, without gradient.

    Raises:
        ValueError: If n is less than 1 or infinite, or a reward is NaN.

    Source:
        Beirami et al. 2024 (arXiv 2401.01879), section 2, with ties.
    """
    if not 1 <= n < math.inf:
        raise ValueError(f"n={n}: must be a number of samples, 1 or more.")
    if rewards.isnan().any():
        raise ValueError("rewards: some are NaN, so none of the samples is the best.")
    reference = reference_logps.double().log_softmax(-1)
    if n == 1:
        return reference
    order = rewards.argsort(dim=-1)
    level, logps = rewards.gather(-1, order), reference.gather(-1, order)
    first, after = torch.searchsorted(level, level), torch.searchsorted(level, level, right=True)
    top = torch.full_like(logps, -torch.inf).scatter_reduce(-1, first, logps, "amax")
    top = top.gather(-1, first).nan_to_num(neginf=0.0)
    sums = torch.zeros_like(logps).scatter_add(-1, first, (logps - top).exp())
    mass = top + sums.gather(-1, first).log()  # of each response's level, nats
    # log F(r): from below, or near 1 from what is above, whose error n does not multiply.
    above = logps.exp().flip(-1).cumsum(-1).flip(-1)
    above = torch.cat([above, torch.zeros_like(above[..., :1])], dim=-1).gather(-1, after)
    below = logps.logcumsumexp(-1).gather(-1, after - 1)
    up_to = torch.where(above < 0.5, torch.log1p(-above.clamp_max(0.5)), below)
    # F(r)^n - F(r-)^n over the level's mass, without the difference of two nearly equal numbers.
    share = (mass - up_to).exp().clamp_max(1.0)
    gain = n * up_to + torch.log(-torch.expm1(n * torch.log1p(-share))) - mass
    gain = torch.where(share > 0, gain, math.log(n) + (n - 1) * up_to)  # its limit
    return reference + torch.zeros_like(gain).scatter(-1, order, gain)


def best_of_n_kl_bound(n: float) -> float:
    """`log n - (n - 1) / n`, nats: an upper bound of KL(pi_n || pi_ref).

    It is approached where nothing ties and no response has much of the probability, much less than
    `1 / n`; of few responses the KL is far below it.

    Source:
        Beirami et al. 2024 (arXiv 2401.01879), which shows that it is a bound and no equality.
    """
    return math.log(n) - (n - 1) / n
