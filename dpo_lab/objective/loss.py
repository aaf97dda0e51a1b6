"""What a loss is to all that uses it: a function of pairs, its texts, and its slopes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dpo_lab.objective.pairs import PairLogps

DIVERGENCE = {"f_divergence_type": "reverse_kl", "f_alpha_divergence_coef": 0.5}
"""Options of the losses that take an f-divergence, with their defaults."""
TESTED = "tested"
"""By a value and slopes derived by hand, an identity, and finite differences in float64."""


@dataclass(frozen=True)
class Loss:
    """One entry of `LOSSES`, or a weighted sum of some.

    Attributes:
        function: `(pairs, beta, **options)` to `(pairs,)`.
        title: Name as people say it.
        formula: In the words of the glossary.
        citation: Paper and equation.
        arxiv: The paper's number; empty where it has none.
        reward_meaning: What the logged `rewards/...` mean under this loss.
        own_options: Keyword options it takes beside beta, with their defaults; those of the
            f-divergences come in `options`.
        divergences: Whether the log-ratios may be replaced by the scores of an f-divergence: only
            where the loss is a function of the margin, so that what depends on the prompt cancels.
            (With `sigmoid_norm` and `ipo_norm` it cancels for answers of one length alone; TRL
            allows them too.) Of a sum, its `options` tell.
        whole_batch: Whether a pair's value depends on the other pairs of the optimiser's batch.
        reference_free: Whether the reference has no part in it.
        per_token: Whether it divides by numbers of tokens.
        bradley_terry: Whether its reward is a Bradley-Terry reward: with pairs enough whose labels
            are drawn from Bradley-Terry, its optimum is pi* at beta.
        trl: How TRL 1.16 calls it; empty where it has no such loss.
        status: How far it is checked, and what to know before use.
        members: The losses that a sum adds up; none of a single loss.
    """

    function: Callable[..., Tensor]
    title: str
    formula: str
    citation: str
    arxiv: str
    reward_meaning: str
    own_options: Mapping[str, Any] = field(default_factory=dict)
    divergences: bool = False
    whole_batch: bool = False
    reference_free: bool = False
    per_token: bool = False
    bradley_terry: bool = False
    trl: str = ""
    status: str = TESTED
    members: tuple[Loss, ...] = ()

    @property
    def known_start(self) -> bool:
        """Whether its value where the policy equals the reference is one number."""
        return not any(loss.reference_free for loss in self.members or (self,))

    @property
    def options(self) -> dict[str, Any]:
        """Every keyword option with its default."""
        return {**self.own_options, **(DIVERGENCE if self.divergences else {})}

    def __call__(self, pairs: PairLogps, beta: float, **options: Any) -> Tensor:
        """Loss of every pair, `(pairs,)`.

        Args:
            pairs: Log-probabilities, each `(pairs,)`.
            beta: As in the loss.
            **options: As named in `options`.

        Raises:
            TypeError: If the loss has no such option.
            ValueError: If a value is out of range.
        """
        if self.divergences:
            chosen = [options.pop(name, default) for name, default in DIVERGENCE.items()]
            pairs = pairs.under(*chosen)
        return self.function(pairs, beta, **options)


def gradient_weight(loss: Loss, pairs: PairLogps, beta: float, **options: Any) -> Tensor:
    """How hard each pair pushes: `w` in `dL/dtheta = -beta * w * d(log pi(y_w|x))/dtheta + ...`.

    For the DPO loss this is `sigmoid(-beta * margin)`: one half at the start, near one for a pair
    that the implicit reward ranks wrongly, near zero for one that it ranks well.

    Args:
        loss: An entry of `LOSSES`.
        pairs: Log-probabilities, each `(pairs,)`.
        beta: As in the loss.
        **options: As in the loss.

    Returns:
        `(pairs,)`, without gradient.

    Source:
        Rafailov et al. 2023, section 4 ("What does the DPO update do?").
    """
    return -loss_and_slopes(loss, pairs, beta, **options)[1][0] / beta


def loss_and_slopes(
    loss: Loss, pairs: PairLogps, beta: float, **options: Any
) -> tuple[Tensor, Tensor]:
    """Loss of each pair, and its derivative by the policy's two log-probabilities.

    All that a model needs of the loss: `logps.backward(slopes)` carries it to the weights.

    Args:
        loss: An entry of `LOSSES`.
        pairs: Log-probabilities, each `(pairs,)`.
        beta: As in the loss.
        **options: As in the loss.

    Returns:
        `(pairs,)` and `(2, pairs)`: by chosen and by rejected; both without gradient.
    """
    with torch.enable_grad():
        policy = torch.stack([pairs.policy_chosen, pairs.policy_rejected]).detach()
        chosen, rejected = policy.requires_grad_()
        losses = loss(pairs.with_policy(chosen, rejected), beta, **options)
        (slopes,) = torch.autograd.grad(losses.sum(), policy)
    return losses.detach(), slopes
