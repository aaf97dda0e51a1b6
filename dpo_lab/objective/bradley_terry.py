"""Bradley-Terry: preference probabilities from rewards, likelihood, sampling, calibration."""

from __future__ import annotations

from dataclasses import dataclass

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


def expected_accuracy(margins: Tensor, true_margins: Tensor) -> Tensor:
    """Expected accuracy of a reward when these pairs' labels are drawn from Bradley-Terry.

    Labels are noisy, so even the true reward is not always right: with `margins=true_margins` this
    is the best accuracy that any reward can reach, the mean of `sigmoid(|margin|)`.

    Args:
        margins: `(pairs,)`, of the reward under test.
        true_margins: `(pairs,)`, of the reward from which labels are drawn.

    Returns:
        Scalar in [0, 1].
    """
    first_wins = torch.sigmoid(true_margins.double())
    predicts_first = (margins > 0).double() + 0.5 * (margins == 0).double()
    return (predicts_first * first_wins + (1 - predicts_first) * (1 - first_wins)).mean()


@dataclass(frozen=True)
class Calibration:
    """Predicted confidence against observed accuracy, bin by bin; empty bins are left out.

    Attributes:
        confidence: `(bins,)`, mean predicted probability of the response with the larger reward.
        accuracy: `(bins,)`, share of pairs in which that response was the chosen one.
        pairs: `(bins,)`, number of pairs.
        error: Expected calibration error: mean |confidence - accuracy|, weighted by pairs.
    """

    confidence: Tensor
    accuracy: Tensor
    pairs: Tensor
    error: float


def calibration(margins: Tensor, bins: int = 10) -> Calibration:
    """How well `sigmoid(margin)` predicts the share of pairs that a reward ranks correctly.

    Args:
        margins: `(pairs,)`, `r(x, y_w) - r(x, y_l)`.
        bins: Number of equal bins of confidence from 1/2 to 1.

    Source:
        Guo et al. 2017, "On calibration of modern neural networks", section 2.
    """
    margins = margins.double()
    confidence, right = torch.sigmoid(margins.abs()), (margins > 0).double()
    right[margins == 0] = 0.5
    index = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    zeros = confidence.new_zeros(bins)
    pairs = zeros.index_add(0, index, torch.ones_like(confidence))
    full = pairs > 0
    sums = [zeros.index_add(0, index, values)[full] for values in (confidence, right)]
    predicted, observed = (total / pairs[full] for total in sums)
    error = ((predicted - observed).abs() * pairs[full]).sum() / len(margins)
    return Calibration(predicted, observed, pairs[full].long(), error.item())
