"""Losses that hold each response to something of its own, not only the margin between the two."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo_lab.objective.margins import check_beta, smoothed_nll
from dpo_lab.objective.pairs import PairLogps


def nca_loss(pairs: PairLogps, beta: float) -> Tensor:
    """Noise contrastive alignment on pairs.

    With `r = beta * log-ratio`: `-log sigmoid(r_w) - (log sigmoid(-r_w) + log sigmoid(-r_l)) / 2`.
    The chosen reward is pulled up once and down half as often, so it ends at `ln 2` and does not
    fall; the rejected one is pulled down.

    Args:
        pairs: Log-probabilities, each `(pairs,)`.
        beta: As in DPO, > 0.

    Returns:
        `(pairs,)`, nats; 2 ln 2 where the policy equals the reference.

    Raises:
        ValueError: If beta is not positive.

    Source:
        Chen et al. 2024 (NCA, arXiv 2402.05369), for two responses and a hard label.
    """
    check_beta(beta)
    chosen, rejected = beta * pairs.chosen_logratios, beta * pairs.rejected_logratios
    return -F.logsigmoid(chosen) - (F.logsigmoid(-chosen) + F.logsigmoid(-rejected)) / 2


def bco_loss(pairs: PairLogps, beta: float) -> Tensor:
    """Binary classifier optimisation on pairs: is this response a chosen one?

    `-log sigmoid(beta * chosen log-ratio) - log sigmoid(-beta * rejected log-ratio)`. It bounds the
    DPO loss from above, and asks that the chosen response rise.

    Args:
        pairs: Log-probabilities, each `(pairs,)`.
        beta: As in DPO, > 0.

    Returns:
        `(pairs,)`, nats; 2 ln 2 where the policy equals the reference.

    Raises:
        ValueError: If beta is not positive.

    Source:
        Jung et al. 2024 (BCO, arXiv 2404.04656).

    Note:
        Without the paper's shift delta of the rewards, their running mean, as in TRL: a response's
        reward is its log-odds of being a chosen one only as far as probabilities that sum to one
        allow.
    """
    check_beta(beta)
    chosen, rejected = beta * pairs.chosen_logratios, beta * pairs.rejected_logratios
    return -F.logsigmoid(chosen) - F.logsigmoid(-rejected)


def sppo_loss(pairs: PairLogps, beta: float) -> Tensor:
    """Self-play preference optimisation with hard labels: a target for each log-ratio.

    `(chosen log-ratio - 1 / (2 beta))^2 + (rejected log-ratio + 1 / (2 beta))^2`.

    Args:
        pairs: Log-probabilities, each `(pairs,)`.
        beta: Inverse of the paper's eta, > 0.

    Returns:
        `(pairs,)`, nats squared; `1 / (2 * beta^2)` where the policy equals the reference.

    Raises:
        ValueError: If beta is not positive.

    Source:
        Wu et al. 2024 (SPPO, arXiv 2405.00675), Eq. 4.7 with win probabilities of 1 and 0.
    """
    check_beta(beta)
    target = 1 / (2 * beta)
    missed = (pairs.chosen_logratios - target).square()
    return missed + (pairs.rejected_logratios + target).square()


def apo_zero_loss(pairs: PairLogps, beta: float) -> Tensor:
    """Anchored preference optimisation, for data better than the model: chosen up, rejected down.

    `1 - sigmoid(beta * chosen log-ratio) + sigmoid(beta * rejected log-ratio)`.

    Args:
        pairs: Log-probabilities, each `(pairs,)`.
        beta: As in DPO, > 0.

    Returns:
        `(pairs,)`, in (0, 2); 1 where the policy equals the reference.

    Raises:
        ValueError: If beta is not positive.

    Source:
        D'Oosterlinck et al. 2024 (APO, arXiv 2408.06266), Eq. 7.
    """
    check_beta(beta)
    chosen, rejected = beta * pairs.chosen_logratios, beta * pairs.rejected_logratios
    return torch.sigmoid(-chosen) + torch.sigmoid(rejected)


def apo_down_loss(pairs: PairLogps, beta: float) -> Tensor:
    """Anchored preference optimisation, for data worse than the model: both down, rejected more.

    `sigmoid(beta * chosen log-ratio) + 1 - sigmoid(beta * margin)`. It lowers chosen responses on
    purpose.

    Args:
        pairs: Log-probabilities, each `(pairs,)`.
        beta: As in DPO, > 0.

    Returns:
        `(pairs,)`, in (0, 2); 1 where the policy equals the reference.

    Raises:
        ValueError: If beta is not positive.

    Source:
        D'Oosterlinck et al. 2024 (APO, arXiv 2408.06266), Eq. 8.
    """
    check_beta(beta)
    return torch.sigmoid(beta * pairs.chosen_logratios) + torch.sigmoid(-beta * pairs.margins)


def aot_loss(pairs: PairLogps, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Distributional alignment by optimal transport, paired: sorted margins of the policy.

    The policy's `log pi(y_w|x) - log pi(y_l|x)` and the reference's are sorted over the batch, each
    by itself, and the DPO loss is taken of their differences: the whole distribution is to lie
    above the reference's, whichever pair is where.

    Args:
        pairs: Log-probabilities, each `(pairs,)`; they are the whole batch.
        beta: As in DPO, > 0.
        label_smoothing: As in conservative DPO, in [0, 0.5).

    Returns:
        `(pairs,)`, nats, a value a place in the order, not a pair; the mean is what counts.

    Raises:
        ValueError: If beta or label_smoothing is out of range.

    Source:
        Melnyk et al. 2024 (AOT, arXiv 2406.05882).
    """
    policy = pairs.policy_chosen - pairs.policy_rejected
    reference = pairs.reference_chosen - pairs.reference_rejected
    return smoothed_nll(policy.sort().values - reference.sort().values, beta, label_smoothing)


def aot_unpaired_loss(pairs: PairLogps, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Distributional alignment by optimal transport, unpaired: chosen above rejected log-ratios.

    Both sides' log-ratios are sorted over the batch, each by itself; the DPO loss is taken of their
    differences. It needs no pairs: chosen and rejected may answer different prompts.

    Args:
        pairs: Log-probabilities, each `(pairs,)`; they are the whole batch.
        beta: As in DPO, > 0.
        label_smoothing: As in conservative DPO, in [0, 0.5).

    Returns:
        `(pairs,)`, nats, a value a place in the order, not a pair; the mean is what counts.

    Raises:
        ValueError: If beta or label_smoothing is out of range.

    Source:
        Melnyk et al. 2024 (AOT, arXiv 2406.05882).
    """
    chosen, rejected = pairs.chosen_logratios.sort().values, pairs.rejected_logratios.sort().values
    return smoothed_nll(chosen - rejected, beta, label_smoothing)
