"""Losses of the policy's own likelihoods, with no reference in them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo_lab.objective.margins import check_beta, smoothed_nll
from dpo_lab.objective.pairs import PairLogps


def sft_loss(pairs: PairLogps, beta: float) -> Tensor:
    """Negative log-likelihood of the chosen responses, per token of the batch.

    `-log pi(y_w|x) / (mean chosen tokens)`, so that the mean over pairs is the mean over all chosen
    tokens of the optimiser's batch. Added to another loss it keeps chosen responses from falling.

    Args:
        pairs: Log-probabilities and numbers of tokens, each `(pairs,)`.
        beta: Not used; checked as everywhere.

    Returns:
        `(pairs,)`, nats per token.

    Raises:
        ValueError: If beta is not positive, or the numbers of tokens are not given.

    Source:
        Supervised fine-tuning; beside DPO: Pang et al. 2024 (arXiv 2404.19733).
    """
    check_beta(beta)
    chosen, _ = pairs.tokens
    mean = chosen.mean() if pairs.mean_chosen_tokens is None else pairs.mean_chosen_tokens
    return -pairs.policy_chosen / mean


def simpo_loss(
    pairs: PairLogps, beta: float, simpo_gamma: float = 0.5, label_smoothing: float = 0.0
) -> Tensor:
    """SimPO: the reward is beta x the mean log-probability of a token, and must win by gamma.

    `-log sigmoid(beta * (log pi(y_w|x) / |y_w| - log pi(y_l|x) / |y_l|) - gamma)`.

    Args:
        pairs: Log-probabilities and numbers of tokens, each `(pairs,)`.
        beta: Scale of the reward, > 0; the paper's values are 2 to 10. Here it does not hold the
            policy to a reference: there is none.
        simpo_gamma: Margin asked for, in units of the reward.
        label_smoothing: As in conservative DPO, in [0, 0.5).

    Returns:
        `(pairs,)`, nats.

    Raises:
        ValueError: If a setting is out of range, or the numbers of tokens are not given.

    Source:
        Meng et al. 2024 (SimPO, arXiv 2405.14734), Eq. 6.
    """
    if not math.isfinite(simpo_gamma):
        raise ValueError(f"simpo_gamma={simpo_gamma!r}: must be a finite number; 0.5 is TRL's.")
    mean = pairs.per_token()
    return smoothed_nll(
        mean.policy_chosen - mean.policy_rejected, beta, label_smoothing, wanted=simpo_gamma
    )


def orpo_loss(pairs: PairLogps, beta: float) -> Tensor:
    """ORPO: the chosen responses' likelihood, and beta x the odds ratio of chosen to rejected.

    With the mean log-probability of a token `a = log pi(y|x) / |y|` and
    `log odds = a - log(1 - e^a)`: `sft - beta * log sigmoid(log odds(y_w) - log odds(y_l))`.

    Args:
        pairs: Log-probabilities and numbers of tokens, each `(pairs,)`.
        beta: The paper's lambda, weight of the odds ratio, > 0. Here larger moves further.

    Returns:
        `(pairs,)`, nats.

    Raises:
        ValueError: If beta is not positive, or the numbers of tokens are not given.

    Source:
        Hong et al. 2024 (ORPO, arXiv 2403.07691), Eq. 4, 6 and 7.

    Note:
        TRL's likelihood term runs over the prompt's tokens too; this one over the response's.
    """
    mean = pairs.per_token()
    odds = _log_odds(mean.policy_chosen) - _log_odds(mean.policy_rejected)
    return sft_loss(pairs, beta) - beta * F.logsigmoid(odds)


def cpo_loss(
    pairs: PairLogps, beta: float, cpo_alpha: float = 1.0, label_smoothing: float = 0.0
) -> Tensor:
    """CPO: DPO with a uniform reference, and the chosen responses' likelihood beside it.

    `-log sigmoid(beta * (log pi(y_w|x) - log pi(y_l|x))) + alpha * sft`.

    Args:
        pairs: Log-probabilities and numbers of tokens, each `(pairs,)`.
        beta: Scale of the difference, > 0.
        cpo_alpha: Weight of the likelihood, >= 0.
        label_smoothing: As in conservative DPO, in [0, 0.5).

    Returns:
        `(pairs,)`, nats.

    Raises:
        ValueError: If a setting is out of range, or the numbers of tokens are not given.

    Source:
        Xu et al. 2024 (CPO, arXiv 2401.08417), Eq. 3; the likelihood per token, as in its code.
    """
    if not (cpo_alpha >= 0 and math.isfinite(cpo_alpha)):
        raise ValueError(f"cpo_alpha={cpo_alpha!r}: must be a finite number >= 0; 1 is TRL's.")
    preferred = smoothed_nll(pairs.policy_chosen - pairs.policy_rejected, beta, label_smoothing)
    return preferred + cpo_alpha * sft_loss(pairs, beta)


def _log_odds(logp: Tensor) -> Tensor:
    """`log(p / (1 - p))` of `p = e^logp`, exact near p = 0 and near p = 1."""
    logp = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    near_one = torch.log(-torch.expm1(logp))
    near_zero = torch.log1p(-logp.exp())
    return logp - torch.where(logp > -math.log(2), near_one, near_zero)
