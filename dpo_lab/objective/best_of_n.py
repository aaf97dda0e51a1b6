"""Best-of-n: the policy that gives the best of n samples of the reference, in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def best_of_n_logps(reference_logps: Tensor, rewards: Tensor, n: float) -> Tensor:
    """`log pi_n(y|x)` of the best of n samples; of equally good ones each is as likely.

    With F the distribution function of the reward under the reference, a level of reward r has
    probability `F(r)^n - F(r-)^n`, which its responses share as they do under the reference.

    Args:
        reference_logps: `(..., responses)`, of all responses, nats.
        rewards: `(..., responses)`.
        n: Number of samples, at least 1; it need not be whole.

    Returns:
        `(..., responses)`, nats.

    Raises:
        ValueError: If n is less than 1.

    Source:
        Beirami et al. 2024 (arXiv 2401.01879), section 2, with ties.
    """
    if not n >= 1:
        raise ValueError(f"n={n}: the best of less than one sample is nothing. Give 1 or more.")
    mass = reference_logps.exp()
    order = rewards.argsort(dim=-1)
    level, sums = rewards.gather(-1, order), mass.gather(-1, order).cumsum(-1)
    sums = sums / sums[..., -1:]
    # Of a level: the sum up to its last response, and the sum before its first.
    last = torch.searchsorted(level, level, right=True) - 1
    first = torch.searchsorted(level, level)
    up_to = sums.gather(-1, last)
    before = torch.where(first > 0, sums.gather(-1, (first - 1).clamp_min(0)), 0.0)
    # log((u^n - b^n) / (u - b)), without the difference of two nearly equal numbers.
    share = before / up_to
    power = n * up_to.log() + torch.log(-torch.expm1(n * share.log()))
    width = up_to.log() + torch.log1p(-share)
    gain = torch.zeros_like(power).scatter(-1, order, power - width)
    return reference_logps - reference_logps.logsumexp(-1, keepdim=True) + gain


def best_of_n_kl_bound(n: float) -> float:
    """`log n - (n - 1) / n`, nats: an upper bound of KL(pi_n || pi_ref), exact without ties.

    Source:
        Beirami et al. 2024 (arXiv 2401.01879), Theorem 1.
    """
    return math.log(n) - (n - 1) / n
