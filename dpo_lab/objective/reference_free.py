"""Preference losses without a reference model: SFT, unlikelihood, SimPO, CPO, ORPO.

Arguments, returns and errors as in `dpo.py`; all of them need lengths. No reference holds the
policy back, so beta has a different meaning in each loss.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo_lab.objective.checks import check_beta, check_not_negative
from dpo_lab.objective.dpo import smoothed_nll
from dpo_lab.objective.pair_logps import PairLogps
from dpo_lab.objective.registry import NO_REFERENCE, UNTIED, register


@register(
    "sft",
    title="SFT on the chosen",
    formula="-log pi(y_w|x) per token; beta has no part",
    citation="Pang et al. 2024, beside DPO",
    arxiv="2404.19733",
    rewards=NO_REFERENCE,
    reference_free=True,
    uses_lengths=True,
    trl="sft",
    status=UNTIED,
)
def sft_loss(pairs: PairLogps, beta: float) -> Tensor:
    """Negative log-likelihood of the chosen responses, in nats per token of the batch.

    `-log pi(y_w|x) / (mean chosen length)`, so that the mean over pairs is the mean over all chosen
    tokens of the optimiser's batch. Added to another loss, it keeps chosen responses from falling.
    Beta is ignored.

    Source:
        Supervised fine-tuning; beside DPO: Pang et al. 2024.
    """
    check_beta(beta)
    return -pairs.policy_chosen / _mean_chosen_length(pairs)


@register(
    "unlikelihood",
    title="Unlikelihood",
    formula="(-log pi(y_w|x) + alpha log pi(y_l|x)) / mean chosen length; beta has no part",
    citation="Rafailov et al. 2023, section 6",
    arxiv="2305.18290",
    rewards=NO_REFERENCE,
    reference_free=True,
    uses_lengths=True,
    status=UNTIED,
)
def unlikelihood_loss(pairs: PairLogps, beta: float, unlikelihood_alpha: float = 1.0) -> Tensor:
    """The chosen responses become likelier and the rejected ones less likely, without a limit.

    In nats per token of the batch, as `sft_loss`. The rejected responses' part has no lower bound:
    trained long, the policy says nothing sensible.

    Source:
        Rafailov et al. 2023, section 6, a baseline with alpha in [0, 1]; after Welleck et al. 2019.
    """
    check_not_negative("unlikelihood_alpha", unlikelihood_alpha, "the paper takes 0 to 1.")
    rejected = unlikelihood_alpha * pairs.policy_rejected / _mean_chosen_length(pairs)
    return sft_loss(pairs, beta) + rejected


@register(
    "simpo",
    title="SimPO",
    formula="-log sigmoid(beta * (mean logp of chosen - of rejected) - gamma)",
    citation="Meng et al. 2024, Eq. 6",
    arxiv="2405.14734",
    rewards=NO_REFERENCE,
    reference_free=True,
    uses_lengths=True,
    trl="simpo (CPOTrainer)",
    status=UNTIED,
)
def simpo_loss(
    pairs: PairLogps, beta: float, simpo_gamma: float = 0.5, label_smoothing: float = 0.0
) -> Tensor:
    """The reward is beta x the mean log-probability per token; its margin should exceed gamma.

    Beta is the scale of the reward, 2 to 10 in the paper; it does not hold the policy back.

    Source:
        Meng et al. 2024, Eq. 6.
    """
    check_beta(beta)
    if not math.isfinite(simpo_gamma):
        raise ValueError(f"simpo_gamma={simpo_gamma!r}: must be a finite number; 0.5 is TRL's.")
    mean = pairs.per_token()
    logits = beta * (mean.policy_chosen - mean.policy_rejected) - simpo_gamma
    return smoothed_nll(logits, label_smoothing)


@register(
    "cpo",
    title="CPO",
    formula="-log sigmoid(beta * (logp of chosen - of rejected)) + a * sft",
    citation="Xu et al. 2024, Eq. 3",
    arxiv="2401.08417",
    rewards=NO_REFERENCE,
    reference_free=True,
    uses_lengths=True,
    trl="sigmoid (CPOTrainer)",
    status=UNTIED,
)
def cpo_loss(
    pairs: PairLogps, beta: float, cpo_alpha: float = 1.0, label_smoothing: float = 0.0
) -> Tensor:
    """DPO with a uniform reference, plus the chosen responses' SFT loss weighted by `cpo_alpha`.

    Beta scales the difference of log-probabilities.

    Source:
        Xu et al. 2024, Eq. 3; the likelihood per token, as in its code.
    """
    check_beta(beta)
    check_not_negative("cpo_alpha", cpo_alpha, "1 is TRL's.")
    logits = beta * (pairs.policy_chosen - pairs.policy_rejected)
    return smoothed_nll(logits, label_smoothing) + cpo_alpha * sft_loss(pairs, beta)


@register(
    "orpo",
    title="ORPO",
    formula="sft - beta * log sigmoid(log odds of chosen - of rejected)",
    citation="Hong et al. 2024, Eq. 6",
    arxiv="2403.07691",
    rewards=NO_REFERENCE,
    reference_free=True,
    uses_lengths=True,
    trl="(ORPOTrainer)",
    status=UNTIED + "; larger beta moves further",
)
def orpo_loss(pairs: PairLogps, beta: float) -> Tensor:
    """The chosen responses' SFT loss, plus beta x a loss of the odds ratio of chosen to rejected.

    With the mean log-probability of a token `a = log pi(y|x) / |y|`, `log odds = a - log(1 - e^a)`.
    Beta is the paper's lambda, the weight of the odds ratio: larger beta moves further.

    Source:
        Hong et al. 2024, Eq. 4, 6 and 7.

    Note:
        TRL's SFT term also covers the prompt's tokens; this one covers the response only.
    """
    check_beta(beta)
    mean = pairs.per_token()
    log_odds_ratio = _log_odds(mean.policy_chosen) - _log_odds(mean.policy_rejected)
    return sft_loss(pairs, beta) - beta * F.logsigmoid(log_odds_ratio)


def _log_odds(logp: Tensor) -> Tensor:
    """`log(p / (1 - p))` of `p = e^logp`, accurate near p = 0 and near p = 1."""
    logp = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    near_one = torch.log(-torch.expm1(logp))
    near_zero = torch.log1p(-logp.exp())
    return logp - torch.where(logp > -math.log(2), near_one, near_zero)


def _mean_chosen_length(pairs: PairLogps) -> Tensor | float:
    """Mean tokens of a chosen response in the optimiser's batch."""
    chosen, _ = pairs.lengths
    return chosen.mean() if pairs.mean_chosen_length is None else pairs.mean_chosen_length
