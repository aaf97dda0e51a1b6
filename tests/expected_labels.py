"""Policies over a few responses, found by minimising a loss with nothing sampled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dpo_lab.objective.bradley_terry import preference_probability
from dpo_lab.objective.pair_logps import PairLogps


def minimised(loss: Callable[[Tensor], Tensor], reference: Tensor) -> Tensor:
    """The log-probabilities at which a function of them is least, beginning at the reference."""
    logits = reference.clone().requires_grad_()
    descent = torch.optim.LBFGS([logits], 1, 2000, 4000, line_search_fn="strong_wolfe")
    descent.param_groups[0].update(tolerance_grad=1e-14, tolerance_change=1e-18)

    def closure() -> Tensor:
        descent.zero_grad()
        value = loss(logits.log_softmax(-1))
        value.backward()
        return value

    descent.step(closure)
    return logits.detach().log_softmax(-1)


def with_expected_labels(
    loss: Callable[[PairLogps], Tensor],
    reference: Tensor,
    rewards: Tensor,
    lengths: Tensor | None = None,
) -> Callable[[Tensor], Tensor]:
    """A loss over every pair of responses, both ways round as often as Bradley-Terry says.

    Args:
        loss: Of pairs.
        reference: `(responses,)`, nats.
        rewards: `(responses,)`.
        lengths: Tokens of the responses, for losses that divide by them.

    Returns:
        A function of the policy's log-probabilities, `(responses,)`.
    """
    first, second = torch.triu_indices(len(rewards), len(rewards), offset=1)
    preferred = preference_probability(rewards[first], rewards[second])

    def of(policy: Tensor, chosen: Tensor, rejected: Tensor) -> Tensor:
        sides = policy[chosen], policy[rejected], reference[chosen], reference[rejected]
        tokens = () if lengths is None else (lengths[chosen], lengths[rejected])
        return loss(PairLogps(*sides, *tokens))

    def value(policy: Tensor) -> Tensor:
        forth, back = of(policy, first, second), of(policy, second, first)
        return (preferred * forth + (1 - preferred) * back).sum() / len(rewards)

    return value
