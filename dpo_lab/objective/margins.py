"""DPO and its relatives: functions of the margin; DPO-positive looks at the chosen side too."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo_lab.objective.pairs import PairLogps


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
    return smoothed_nll(pairs.margins, beta, label_smoothing)


def dpo_norm_loss(pairs: PairLogps, beta: float) -> Tensor:
    """Length-normalised DPO: the DPO loss of log-ratios averaged over each response's tokens.

    A long response no longer has a large log-ratio because it is long. The averages are small, so
    beta is chosen ten to a hundred times larger than for `sigmoid`.

    Args:
        pairs: Log-probabilities and numbers of tokens, each `(pairs,)`.
        beta: On the scale of nats per token, > 0.

    Returns:
        `(pairs,)`, nats; ln 2 where the policy equals the reference.

    Raises:
        ValueError: If beta is not positive, or the numbers of tokens are not given.

    Source:
        Lambert et al. 2024 (Tulu 3, arXiv 2411.15124), section 5.
    """
    check_beta(beta)
    return -F.logsigmoid(beta * pairs.per_token().margins)


def robust_loss(pairs: PairLogps, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Robust DPO: the loss whose mean over random flips of the labels is the DPO loss.

    `-((1 - epsilon) log sigmoid(beta * margin) - epsilon log sigmoid(-beta * margin))
    / (1 - 2 epsilon)`. Where conservative DPO asks for less confidence, this one takes the noise
    back: it is unbiased, at the price of a larger spread, and may be negative.

    Args:
        pairs: Log-probabilities, each `(pairs,)`.
        beta: As in DPO, > 0.
        label_smoothing: Epsilon, the rate at which labels are flipped, in [0, 0.5).

    Returns:
        `(pairs,)`, nats; ln 2 where the policy equals the reference.

    Raises:
        ValueError: If beta or label_smoothing is out of range.

    Source:
        Chowdhury et al. 2024 (arXiv 2403.00409).
    """
    check_beta(beta)
    check_smoothing(label_smoothing)
    rewards, flipped = beta * pairs.margins, label_smoothing
    kept = -F.logsigmoid(rewards) * (1 - flipped) + F.logsigmoid(-rewards) * flipped
    return kept / (1 - 2 * flipped)


def exo_loss(pairs: PairLogps, beta: float, label_smoothing: float = 1e-3) -> Tensor:
    """EXO on pairs: the reverse KL from the policy's choice between the two to the label's.

    With `q = (sigmoid(beta * margin), sigmoid(-beta * margin))` and `p = (1 - epsilon, epsilon)` it
    is `KL(q || p)`; conservative DPO is the other direction, up to a constant. Reverse KL seeks one
    mode: it would rather miss some of `p` than cover what `p` hardly has.

    Over labels that come with probability p its least mean lies at the reward margin
    `(2p - 1) log((1 - epsilon) / epsilon)`, where a Bradley-Terry reward has `log(p / (1 - p))`:
    beta x log-ratio is not such a reward, and pi* not its optimum.

    Args:
        pairs: Log-probabilities, each `(pairs,)`.
        beta: As in DPO, > 0.
        label_smoothing: Epsilon, in (0, 0.5); without it a label would have an infinite weight.

    Returns:
        `(pairs,)`, nats.

    Raises:
        ValueError: If beta or label_smoothing is out of range.

    Source:
        Ji et al. 2024 (arXiv 2402.00856), Eq. 16.
    """
    check_beta(beta)
    check_smoothing(label_smoothing)
    if label_smoothing == 0:
        raise ValueError(
            "label_smoothing=0: exo_pair takes the logarithm of it. The paper uses 1e-3."
        )
    chosen, rejected = F.logsigmoid(beta * pairs.margins), F.logsigmoid(-beta * pairs.margins)
    # log1p is exact for a small epsilon.
    of_chosen = chosen.exp() * (chosen - math.log1p(-label_smoothing))
    return of_chosen + rejected.exp() * (rejected - math.log(label_smoothing))


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
        Log-ratios are summed over tokens, as in the paper's Eq. 17 and Mitchell's code. TRL's `ipo`
        averages them over tokens, which here is `ipo_norm`: a tau of one is not a tau of the other.
    """
    check_beta(beta)
    return (pairs.margins - 1 / (2 * beta)).square()


def ipo_norm_loss(pairs: PairLogps, beta: float) -> Tensor:
    """IPO of log-ratios averaged over each response's tokens; TRL calls it `ipo`.

    Args:
        pairs: Log-probabilities and numbers of tokens, each `(pairs,)`.
        beta: The paper's tau on the scale of nats per token, > 0.

    Returns:
        `(pairs,)`; `1 / (4 * tau^2)` where the policy equals the reference.

    Raises:
        ValueError: If beta is not positive, or the numbers of tokens are not given.

    Source:
        Azar et al. 2023, Eq. 17; the average is TRL's, agreed with the paper's authors, it says.
    """
    return ipo_loss(pairs.per_token(), beta)


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
    check_beta(beta)
    return torch.relu(1 - beta * pairs.margins)


def discopop_loss(pairs: PairLogps, beta: float, discopop_tau: float = 0.05) -> Tensor:
    """DiscoPOP: between the logistic and the exponential loss, found by a language model.

    With `m = beta * margin` and `s = sigmoid(m / tau)`: `-(1 - s) log sigmoid(m) + s e^-m`. It is
    not convex: it rises a little around `m = 0` before it falls on.

    Args:
        pairs: Log-probabilities, each `(pairs,)`.
        beta: As in DPO, > 0.
        discopop_tau: Width of the change from one to the other, > 0.

    Returns:
        `(pairs,)`; (ln 2 + 1) / 2 where the policy equals the reference.

    Raises:
        ValueError: If beta or discopop_tau is not positive.

    Source:
        Lu et al. 2024 (arXiv 2406.08414), Eq. 5.

    Note:
        The two factors of `s e^-m` are joined in the exponent: apart, they are 0 times infinity for
        a margin far below 0.
    """
    check_beta(beta)
    _check_positive("discopop_tau", discopop_tau, "The paper's value is 0.05.")
    rewards = beta * pairs.margins
    logistic = -F.logsigmoid(rewards) * torch.sigmoid(-rewards / discopop_tau)
    return logistic + torch.exp(F.logsigmoid(rewards / discopop_tau) - rewards)


def dpop_loss(pairs: PairLogps, beta: float, dpop_lambda: float = 50.0) -> Tensor:
    """DPO-positive: DPO with a penalty on chosen responses that lose probability.

    `-log sigmoid(beta * (margin - lambda * max(0, log pi_ref(y_w|x) - log pi(y_w|x))))`: meant as a
    remedy for likelihood displacement. Where the penalty is at work, beta x log-ratio is no
    Bradley-Terry reward, and pi* not the optimum.

    Args:
        pairs: Log-probabilities, each `(pairs,)`.
        beta: As in DPO, > 0.
        dpop_lambda: Weight of the penalty, >= 0; at 0 it is DPO.

    Returns:
        `(pairs,)`, nats; ln 2 where the policy equals the reference.

    Raises:
        ValueError: If beta is not positive or dpop_lambda negative.

    Source:
        Pal et al. 2024 (Smaug, arXiv 2402.13228), whose experiments use lambda 50.
    """
    check_beta(beta)
    if not (dpop_lambda >= 0 and math.isfinite(dpop_lambda)):
        raise ValueError(f"dpop_lambda={dpop_lambda!r}: must be a finite number >= 0; 0 is DPO.")
    fallen = torch.relu(-pairs.chosen_logratios)
    return -F.logsigmoid(beta * (pairs.margins - dpop_lambda * fallen))


def smoothed_nll(
    differences: Tensor, beta: float, label_smoothing: float, wanted: float = 0.0
) -> Tensor:
    """`-log sigmoid(beta * difference - wanted)`, mixed with that of its opposite.

    Args:
        differences: `(pairs,)`, nats, in favour of the chosen response.
        beta: Scale of the differences, > 0.
        label_smoothing: Share of the opposite, in [0, 0.5).
        wanted: By how much the scaled difference has to win.

    Raises:
        ValueError: If beta or label_smoothing is out of range.
    """
    check_beta(beta)
    check_smoothing(label_smoothing)
    reward_margins = beta * differences - wanted
    kept = -F.logsigmoid(reward_margins) * (1 - label_smoothing)
    return kept - F.logsigmoid(-reward_margins) * label_smoothing


def check_beta(beta: float) -> None:
    """Refuse a beta that is not a positive finite number."""
    _check_positive(
        "beta",
        beta,
        "Larger beta keeps the policy closer to the reference; 0.1 is the paper's default.",
    )


def check_smoothing(label_smoothing: float) -> None:
    """Refuse a share of flipped labels that no label would survive."""
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(
            f"label_smoothing={label_smoothing!r}: must be in [0, 0.5). At 0.5 the labels would "
            "carry no information; give the share of labels you take to be flipped."
        )


def _check_positive(name: str, value: float, advice: str) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}={value!r}: must be a finite number > 0. {advice}")
