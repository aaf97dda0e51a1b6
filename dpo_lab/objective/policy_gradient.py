"""RLHF by policy gradients: advantages of sampled responses, where the KL goes, and the loss.

The objective is that of DPO, `J(pi) = E_{y ~ pi}[r(x, y)] - beta KL(pi || pi_ref)` (Eq. 3). RLOO,
a form of GRPO and what lies between are settings of one loss. Arrays are `(prompts, k)`: k
responses sampled from the policy at temperature 1 to each prompt; of tokens `(prompts, k, tokens)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dpo_lab.objective.kl import k3

Baseline = Literal["none", "mean", "leave-one-out"]
"""What is subtracted from a reward: nothing, its group's mean, or the mean of the others."""
Estimator = Literal["k1", "k2", "k3"]
"""Of the KL, by Schulman's names: `r`, `r^2 / 2` and `exp(-r) - 1 + r` of a log-ratio r."""
Place = Literal["reward", "loss"]
"""Where the KL is taken off: from the reward before the baseline, or added to the loss."""
Unit = Literal["sequence", "token"]
"""What the log-ratio is of: the whole response, or each token, credited to that token alone."""


@dataclass(frozen=True)
class PolicyGradient:
    """How a gradient of J is estimated from samples.

    The defaults are RLOO, whose expected gradient is exactly that of J. So is that of no baseline,
    and of `k2` of sequences as a loss with either. With the mean baseline and the KL in the reward
    it is `(k - 1) / k` of it: the same fixed point. A KL outside the baseline then weighs
    `k / (k - 1)` times as much. All other settings end elsewhere.

    Attributes:
        baseline: What is subtracted from each reward.
        estimator: Estimator of the KL.
        place: Where the KL enters.
        unit: Of whole responses, or of single tokens.
        deviation: Whether to divide by the standard deviation of a group's rewards, the KL taken
            off if it is in the reward.

    Source:
        Ahmadian et al. 2024 (arXiv 2402.14740) for RLOO; Shao et al. 2024 (arXiv 2402.03300) for
        GRPO; Tang and Munos 2025 (arXiv 2506.09477) for where the KL goes.
    """

    baseline: Baseline = "leave-one-out"
    estimator: Estimator = "k1"
    place: Place = "reward"
    unit: Unit = "sequence"
    deviation: bool = False

    @property
    def aims_at_optimum(self) -> bool:
        """Whether pi* at beta is where its expected gradient is zero."""
        in_reward = self.place == "reward" and self.estimator == "k1"
        in_loss = self.place == "loss" and self.estimator == "k2" and self.baseline != "mean"
        return (in_reward or in_loss) and self.unit == "sequence" and not self.deviation


RLOO = PolicyGradient()
GRPO = PolicyGradient("mean", "k3", "loss", "token", deviation=True)
"""GRPO with one update a batch, so without ratio and clipping, and with sums over tokens instead of
the paper's means over each response's."""


def policy_gradient_loss(
    policy: Tensor,
    reference: Tensor,
    mask: Tensor,
    rewards: Tensor,
    beta: float,
    how: PolicyGradient = RLOO,
) -> Tensor:
    """A loss whose gradient is an estimate of minus the gradient of J, from one batch of samples.

    One update a batch: the policy is the one that was sampled from, so there is no ratio to clip.

    Args:
        policy: `(prompts, k, tokens)`, log-probabilities of the sampled tokens, nats; the gradient
            flows through these alone.
        reference: The same of the reference.
        mask: The same, true at the tokens of the response, its end token included.
        rewards: `(prompts, k)`.
        beta: Weight of the KL, > 0.
        how: How the gradient is estimated.

    Returns:
        `(prompts, k)`; the mean is descended.

    Raises:
        ValueError: If the leave-one-out baseline has no other response, or shapes do not agree.
    """
    _check(policy, reference, mask, rewards)
    reference = reference.detach()
    logps = torch.where(mask, policy, 0.0)
    ratios = torch.where(mask, policy - reference, 0.0)
    if how.unit == "sequence":
        ratios = ratios.sum(-1)
    penalty = kl_penalty(ratios if how.place == "loss" else ratios.detach(), how.estimator)
    if how.unit == "token":
        penalty = torch.where(mask, penalty, 0.0)
    if how.place == "loss":
        advantage = advantages(rewards, how.baseline, how.deviation)
        added = penalty if how.unit == "sequence" else penalty.sum(-1)
        return beta * added - advantage * logps.sum(-1)
    if how.unit == "sequence":
        advantage = advantages(rewards - beta * penalty, how.baseline, how.deviation)
        return -advantage * logps.sum(-1)
    advantage = advantages(rewards, how.baseline, how.deviation)
    return -((advantage.unsqueeze(-1) - beta * penalty) * logps).sum(-1)


def advantages(rewards: Tensor, baseline: Baseline, deviation: bool = False) -> Tensor:
    """Rewards less a baseline that does not depend on the response itself, or nearly so.

    The mean of the others gives `k / (k - 1) (r - mean)`. In a group of equal rewards both are 0.

    Args:
        rewards: `(prompts, k)`.
        baseline: What is subtracted.
        deviation: Whether to divide by the standard deviation of each group, as GRPO does, plus
            1e-4, as TRL does; this moves the fixed point.

    Returns:
        `(prompts, k)`, without gradient.

    Raises:
        ValueError: If there are no others.
    """
    rewards, k = rewards.detach(), rewards.shape[-1]
    if k < 2 and (deviation or baseline != "none"):
        raise ValueError(f"k={k} responses a prompt: there are no others. Sample at least 2.")
    found = rewards if baseline == "none" else rewards - rewards.mean(-1, keepdim=True)
    if baseline != "none" or deviation:
        # Rounding in the mean would make a gradient out of rewards that are all the same.
        found = found.masked_fill((rewards == rewards[..., :1]).all(-1, keepdim=True), 0.0)
    if baseline == "leave-one-out":
        found = found * (k / (k - 1))
    return found / (rewards.std(-1, keepdim=True) + 1e-4) if deviation else found


def kl_penalty(log_ratios: Tensor, estimator: Estimator) -> Tensor:
    """An estimator of KL(policy || reference), from log-ratios of samples of the policy.

    Args:
        log_ratios: `log pi - log pi_ref`, any shape, nats.
        estimator: Which.

    Source:
        Schulman 2020, "Approximating KL divergence".
    """
    if estimator == "k1":
        return log_ratios
    return log_ratios.square() / 2 if estimator == "k2" else k3(log_ratios)


def _check(policy: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor) -> None:
    shapes = policy.shape, reference.shape, mask.shape
    if len(set(shapes)) > 1 or policy.shape[:-1] != rewards.shape:
        raise ValueError(
            f"log-probabilities {tuple(policy.shape)} and {tuple(reference.shape)}, mask "
            f"{tuple(mask.shape)}, rewards {tuple(rewards.shape)}: the first three are (prompts, "
            "k, tokens), rewards (prompts, k)."
        )
