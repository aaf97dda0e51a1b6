"""The optimum of RLHF in closed form: Z(x), pi*, the objective, and the reward-KL frontier.

All of it is exact over a listed set of responses, and optimal among policies over that set: for
`micro`, all responses of at most three words. Arrays are `(..., responses)`: the last axis runs
over all responses to a prompt, the axes before it over prompts, which have equal weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_HALVINGS = 60


def log_partition(reference_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """`log Z(x) = log sum_y pi_ref(y|x) exp(r(x, y) / beta)`.

    Args:
        reference_logps: `(..., responses)`, of all responses, nats.
        rewards: `(..., responses)`.
        beta: Weight of the KL, > 0.

    Returns:
        `(...)`, nats.

    Source:
        Rafailov et al. 2023, below Eq. 4.
    """
    return torch.logsumexp(reference_logps + rewards / beta, dim=-1)


def optimal_logps(reference_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """`log pi*(y|x)`, with `pi*(y|x) = pi_ref(y|x) exp(r(x, y) / beta) / Z(x)`.

    Args:
        reference_logps: `(..., responses)`, of all responses, nats.
        rewards: `(..., responses)`.
        beta: Weight of the KL, > 0.

    Returns:
        `(..., responses)`, nats.

    Source:
        Rafailov et al. 2023, Eq. 4; derived in its appendix A.1.
    """
    log_z = log_partition(reference_logps, rewards, beta)
    return reference_logps + rewards / beta - log_z.unsqueeze(-1)


def expected_reward(policy_logps: Tensor, rewards: Tensor) -> Tensor:
    """`E_{y ~ pi}[r(x, y)]`, `(...)`, from all responses, `(..., responses)`."""
    return (policy_logps.exp() * rewards).sum(dim=-1)


def exact_kl(policy_logps: Tensor, reference_logps: Tensor) -> Tensor:
    """`KL(pi || pi_ref) = sum_y pi(y|x) log(pi(y|x) / pi_ref(y|x))`.

    Args:
        policy_logps: `(..., responses)`, of all responses, nats; minus infinity for probability 0.
        reference_logps: `(..., responses)`.

    Returns:
        `(...)`, nats.
    """
    probability = policy_logps.exp()
    # Chosen before the product, whose gradient would be 0 x infinity where nothing is chosen.
    ratios = torch.where(probability > 0, policy_logps - reference_logps, 0.0)
    return (probability * ratios).sum(dim=-1)


def rlhf_objective(
    policy_logps: Tensor, reference_logps: Tensor, rewards: Tensor, beta: float
) -> Tensor:
    """`J(pi) = E_{y ~ pi}[r(x, y)] - beta KL(pi || pi_ref)`, which pi* maximises.

    At the optimum it is `beta log Z(x)`; elsewhere it is less by `beta KL(pi || pi*)`.

    Args:
        policy_logps: `(..., responses)`, of all responses, nats.
        reference_logps: `(..., responses)`.
        rewards: `(..., responses)`.
        beta: Weight of the KL, > 0.

    Returns:
        `(...)`, in the unit of the reward.

    Source:
        Rafailov et al. 2023, Eq. 3.
    """
    return expected_reward(policy_logps, rewards) - beta * exact_kl(policy_logps, reference_logps)


@dataclass(frozen=True)
class FrontierPoint:
    """The best policy at one beta, over all prompts.

    Attributes:
        beta: Weight of the KL; 0 for the policy that always gives a best response.
        kl: Mean KL(pi* || pi_ref), nats.
        reward: Mean expected reward: the highest of any policy over the responses at this KL.
    """

    beta: float
    kl: float
    reward: float


@dataclass(frozen=True)
class PolicyPoint:
    """Where a policy stands against the frontier.

    Attributes:
        kl: Mean KL(pi || pi_ref), nats.
        reward: Mean expected reward.
        best_reward: The highest mean reward of any policy over the responses at this KL.
        gained: Reward gained over the reference, as a share of the possible gain at this KL.
    """

    kl: float
    reward: float
    best_reward: float
    gained: float


@dataclass(frozen=True)
class Frontier:
    """The exact reward-KL frontier of a reference and a reward.

    The best policy for a given mean KL uses one beta for all prompts.

    Args:
        reference_logps: `(prompts, responses)`, of all responses, nats, float64.
        rewards: `(prompts, responses)`.
    """

    reference_logps: Tensor
    rewards: Tensor

    def at(self, beta: float) -> FrontierPoint:
        """The best policy at a beta; 0 gives the limit for small beta, infinity the reference."""
        if beta == 0:
            logps = self.reference_logps.masked_fill(self.rewards < self._best, -torch.inf)
            policy = logps.log_softmax(dim=-1)
        elif math.isinf(beta):
            policy = self.reference_logps
        else:
            policy = optimal_logps(self.reference_logps, self.rewards, beta)
        kl = exact_kl(policy, self.reference_logps).mean().item()
        return FrontierPoint(beta, kl, expected_reward(policy, self.rewards).mean().item())

    def at_kl(self, kl: float) -> FrontierPoint:
        """The best policy within a mean KL, nats.

        Above the KL of the limit at beta 0 more KL gains nothing, so that limit is returned.

        Raises:
            ValueError: If the KL is negative.
        """
        if kl < 0:
            raise ValueError(f"kl={kl}: a KL is never negative. Give 0 or more.")
        if kl == 0:
            return self.at(math.inf)
        limit = self.at(0.0)
        if kl >= limit.kl:
            return limit
        # KL falls as beta rises: bisect log(beta).
        low, high = math.log(1e-6), math.log(1e9)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.at(math.exp(middle)).kl > kl else (low, middle)
        return self.at(math.exp(high))

    def point(self, policy_logps: Tensor) -> PolicyPoint:
        """Where a policy stands, given `(prompts, responses)` log-probabilities, nats."""
        kl = exact_kl(policy_logps, self.reference_logps).mean().item()
        reward = expected_reward(policy_logps, self.rewards).mean().item()
        kl = max(kl, 0.0)  # rounding can make it negative
        best = self.at_kl(kl).reward
        return PolicyPoint(kl, reward, best, self._gained(reward, best))

    def curve(self, betas: list[float]) -> list[FrontierPoint]:
        """The frontier at some betas, in their order."""
        return [self.at(beta) for beta in betas]

    def _gained(self, reward: float, best: float) -> float:
        start = self.at(math.inf).reward
        return (reward - start) / (best - start) if best > start else math.nan

    @property
    def _best(self) -> Tensor:
        return self.rewards.max(dim=-1, keepdim=True).values
