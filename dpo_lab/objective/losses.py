"""Preference losses as functions of sequence log-probabilities, and the one registry of them.

Larger beta keeps the policy closer to the reference; smaller beta lets it move further. Every loss
takes the same `PairLogps` and returns one value a pair; the training loop, the command line and the
widgets read the names, the options and the texts from `LOSSES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PairLogps:
    """Sequence log-probabilities of a batch of pairs, each `(pairs,)`, nats, summed over tokens.

    Attributes:
        policy_chosen: `log pi(y_w|x)`.
        policy_rejected: `log pi(y_l|x)`.
        reference_chosen: `log pi_ref(y_w|x)`.
        reference_rejected: `log pi_ref(y_l|x)`.

    Raises:
        ValueError: If the shapes differ.
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor

    def __post_init__(self) -> None:
        shapes = {name: tuple(values.shape) for name, values in vars(self).items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(
                f"shapes {shapes}: broadcasting would mix the pairs. Pass one value a pair in each."
            )

    @property
    def chosen_logratios(self) -> Tensor:
        """`log pi(y_w|x) - log pi_ref(y_w|x)`, `(pairs,)`, nats."""
        return self.policy_chosen - self.reference_chosen

    @property
    def rejected_logratios(self) -> Tensor:
        """`log pi(y_l|x) - log pi_ref(y_l|x)`, `(pairs,)`, nats."""
        return self.policy_rejected - self.reference_rejected

    @property
    def margins(self) -> Tensor:
        """Chosen minus rejected log-ratio, not scaled by beta, `(pairs,)`, nats."""
        return self.chosen_logratios - self.rejected_logratios


def dpo_loss(pairs: PairLogps, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """The DPO loss, `-log sigmoid(beta * margin)`, and conservative DPO.

    It asks that the policy prefer the chosen response more than the reference does. With smoothing
    epsilon it is `-(1 - epsilon) log sigmoid(beta * margin) - epsilon log sigmoid(-beta * margin)`,
    whose minimum lies at the finite margin `log((1 - epsilon) / epsilon) / beta`.

    Args:
        pairs: Log-probabilities, each `(pairs,)`.
        beta: Inverse strength of the move away from the reference, > 0.
        label_smoothing: Epsilon, the share of labels taken to be flipped, in [0, 0.5).

    Returns:
        `(pairs,)`, nats; ln 2 where the policy equals the reference.

    Raises:
        ValueError: If beta or label_smoothing is out of range.

    Source:
        Rafailov et al. 2023 (arXiv 2305.18290), Eq. 7. Smoothing: Mitchell 2023, "A note on DPO
        with noisy preferences & relationship to IPO", Eq. 3.
    """
    _check(beta, label_smoothing)
    reward_margins = beta * pairs.margins
    return (
        -F.logsigmoid(reward_margins) * (1 - label_smoothing)
        - F.logsigmoid(-reward_margins) * label_smoothing
    )


def ipo_loss(pairs: PairLogps, beta: float) -> Tensor:
    """The IPO loss, `(margin - 1 / (2 * tau))^2` with `tau = beta`.

    It asks for one given margin and no more, so it cannot run away on pairs that the data labels
    the same way every time.

    Args:
        pairs: Log-probabilities, each `(pairs,)`.
        beta: The paper's tau, > 0.

    Returns:
        `(pairs,)`, nats squared; `1 / (4 * tau^2)` where the policy equals the reference.

    Raises:
        ValueError: If beta is not positive.

    Source:
        Azar et al. 2023 (arXiv 2310.12036), Eq. 17.

    Note:
        Log-ratios are summed over tokens, as in the paper's Eq. 17 and Mitchell's code. TRL
        averages them over tokens, so a tau of one is not a tau of the other.
    """
    _check(beta)
    return (pairs.margins - 1 / (2 * beta)).square()


def hinge_loss(pairs: PairLogps, beta: float) -> Tensor:
    """The hinge loss, `max(0, 1 - beta * margin)`.

    It pushes every pair with the same force until its reward margin is 1, and then not at all.

    Args:
        pairs: Log-probabilities, each `(pairs,)`.
        beta: Inverse of the margin asked for, > 0.

    Returns:
        `(pairs,)`; 1 where the policy equals the reference.

    Raises:
        ValueError: If beta is not positive.

    Source:
        Zhao et al. 2023 (SLiC-HF, arXiv 2305.10425); with a reference, the "hinge-norm" loss of Liu
        et al. 2023 (RSO, arXiv 2309.06657).
    """
    _check(beta)
    return torch.relu(1 - beta * pairs.margins)


@dataclass(frozen=True)
class Loss:
    """One entry of `LOSSES`.

    Attributes:
        function: `(pairs, beta, **options)` to `(pairs,)`.
        title: Name as people say it.
        formula: In the words of the glossary.
        citation: Paper and equation.
        reward_meaning: What the logged `rewards/...` mean under this loss.
        options: Names of the keyword options it takes beside beta.
        status: How far it is checked.
    """

    function: Callable[..., Tensor]
    title: str
    formula: str
    citation: str
    reward_meaning: str
    options: tuple[str, ...] = ()
    status: str = "derived value, identity and gradient tested"

    def __call__(self, pairs: PairLogps, beta: float, **options: float) -> Tensor:
        """Loss of every pair, `(pairs,)`; options as named in `options`."""
        return self.function(pairs, beta, **options)


LOSSES: dict[str, Loss] = {
    "sigmoid": Loss(
        dpo_loss,
        "DPO",
        "-log sigmoid(beta * margin)",
        "Rafailov et al. 2023, Eq. 7",
        "implicit reward of the policy, up to a function of the prompt",
        options=("label_smoothing",),
    ),
    "ipo": Loss(
        ipo_loss,
        "IPO",
        "(margin - 1 / (2 * beta))^2",
        "Azar et al. 2023, Eq. 17",
        "beta x log-ratio, to read margins by (the target is 1/2); not a Bradley-Terry reward",
    ),
    "hinge": Loss(
        hinge_loss,
        "Hinge",
        "max(0, 1 - beta * margin)",
        "Liu et al. 2023 (RSO), hinge-norm",
        "beta x log-ratio, to read margins by (the target is 1); not a Bradley-Terry reward",
    ),
}
"""Every loss by its name (TRL's, where TRL has it)."""


def implicit_rewards(policy_logps: Tensor, reference_logps: Tensor, beta: float) -> Tensor:
    """Implicit reward `r(x, y) = beta * log(pi(y|x) / pi_ref(y|x))`, without gradient.

    Args:
        policy_logps: `(responses,)`, nats.
        reference_logps: `(responses,)`, nats.
        beta: As in the loss.

    Returns:
        `(responses,)`.

    Source:
        Rafailov et al. 2023, Eq. 5, without `beta * log Z(x)`, which is the same for both responses
        to a prompt.
    """
    return beta * (policy_logps - reference_logps).detach()


def gradient_weight(loss: Loss, pairs: PairLogps, beta: float, **options: float) -> Tensor:
    """How hard each pair pushes: `w` in `dL/dtheta = -beta * w * d(margin)/dtheta`.

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
    loss: Loss, pairs: PairLogps, beta: float, **options: float
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
        losses = loss(
            replace(pairs, policy_chosen=chosen, policy_rejected=rejected), beta, **options
        )
        (slopes,) = torch.autograd.grad(losses.sum(), policy)
    return losses.detach(), slopes


def _check(beta: float, label_smoothing: float = 0.0) -> None:
    if not (beta > 0 and math.isfinite(beta)):
        raise ValueError(
            f"beta={beta!r}: must be a finite number > 0. "
            "Larger beta keeps the policy closer to the reference; 0.1 is the paper's default."
        )
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(
            f"label_smoothing={label_smoothing!r}: must be in [0, 0.5). At 0.5 the labels would "
            "carry no information; give the share of labels you take to be flipped."
        )
