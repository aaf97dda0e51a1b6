"""The Bradley-Terry model: from rewards to preferences, and the likelihood of preferences."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def preference_probability(reward_a: Tensor, reward_b: Tensor) -> Tensor:
    """Probability that `a` is preferred to `b`: `e^ra / (e^ra + e^rb) = sigmoid(ra - rb)`.

    Args:
        reward_a: Rewards of the first responses, any shape.
        reward_b: Rewards of the second responses, the same shape.

    Returns:
        Probabilities, the same shape.

    Source:
        Bradley and Terry 1952; Rafailov et al. 2023, Eq. 1.
    """
    return torch.sigmoid(reward_a - reward_b)


def preference_nll(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """Negative log-likelihood of observed preferences, `-log sigmoid(r_w - r_l)`.

    The loss of a reward model; the DPO loss is this with `r = beta * log(pi / pi_ref)`.

    Args:
        chosen_rewards: `(pairs,)`.
        rejected_rewards: `(pairs,)`.

    Returns:
        `(pairs,)`, nats.

    Source:
        Rafailov et al. 2023, Eq. 2.
    """
    return -F.logsigmoid(chosen_rewards - rejected_rewards)


def sample_preferences(
    reward_a: Tensor, reward_b: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draw which of two responses is preferred, from Bradley-Terry.

    Labels must be drawn, not taken by argmax: with argmax labels the best margin is infinite and
    DPO never reaches an optimum.

    Args:
        reward_a: Rewards of the first responses, any shape.
        reward_b: Rewards of the second responses, the same shape.
        generator: Source of randomness.

    Returns:
        True where `a` is preferred, the same shape.

    Source:
        Rafailov et al. 2023, Eq. 1.
    """
    return torch.bernoulli(preference_probability(reward_a, reward_b), generator=generator).bool()
