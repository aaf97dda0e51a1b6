"""Losses of single responses, each called good or bad: KTO, and BCO with its shift.

Arguments, returns and errors as in `dpo.py`, but that a pair may have one side only: a response
that people liked is chosen and has no rejected one beside it, one that they did not like is the
opposite. A side that is missing has a length of 0 and adds nothing. `pairs.baseline` is what a
log-ratio is compared with: KTO's z0, or BCO's shift delta over beta.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo_lab.objective.checks import check_beta, check_not_negative
from dpo_lab.objective.pair_logps import PairLogps
from dpo_lab.objective.registry import NOT_A_REWARD, TESTED, register


@register(
    "kto",
    title="KTO",
    formula="lambda_D (1 - sigmoid(r_w - beta * z0)) or lambda_U (1 - sigmoid(beta * z0 - r_l))",
    citation="Ethayarajh et al. 2024, Eq. 8",
    arxiv="2402.01306",
    rewards=NOT_A_REWARD,
    unpaired=True,
    trl="kto (KTOTrainer)",
    status=TESTED + "; of single responses, desirable or undesirable; pairs are taken apart",
)
def kto_loss(
    pairs: PairLogps, beta: float, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
) -> Tensor:
    """A utility that saturates: a response counts by how far its reward is from the baseline z0.

    z0 estimates KL(policy || reference): at least 0, and without gradient. The weights are the
    paper's lambda_D and lambda_U. It advises to keep (weight x number of desirable responses) over
    (weight x number of undesirable ones) between 1 and 4/3. In (0, weight), no unit.

    Source:
        Ethayarajh et al. 2024 (KTO), Eq. 8.
    """
    check_beta(beta)
    for name, weight in (("desirable", desirable_weight), ("undesirable", undesirable_weight)):
        check_not_negative(f"{name}_weight", weight, "1 is the default.")
    above = beta * (pairs.chosen_logratios - pairs.baseline)
    below = beta * (pairs.baseline - pairs.rejected_logratios)
    has_chosen, has_rejected = _sides(pairs)
    desirable = desirable_weight * has_chosen * torch.sigmoid(-above)
    return desirable + undesirable_weight * has_rejected * torch.sigmoid(-below)


@register(
    "bco",
    title="BCO of single responses",
    formula="-log sigmoid(r_w - delta) or -log sigmoid(delta - r_l), r = beta * log-ratio",
    citation="Jung et al. 2024",
    arxiv="2404.04656",
    rewards="log-odds that a response is a desirable one, plus delta, if probabilities allow it",
    unpaired=True,
    status=TESTED + "; of single responses; delta is the running mean of rewards, no density ratio",
)
def bco_unpaired_loss(pairs: PairLogps, beta: float) -> Tensor:
    """A binary classifier of single responses, whose logit is the reward less a shift.

    The shift delta is the mean of all rewards so far, and has no gradient.

    Source:
        Jung et al. 2024 (BCO).

    Note:
        The paper's density ratio, for prompts that differ between good and bad responses (UDM), is
        not in it.
    """
    check_beta(beta)
    chosen = beta * (pairs.chosen_logratios - pairs.baseline)
    rejected = beta * (pairs.rejected_logratios - pairs.baseline)
    has_chosen, has_rejected = _sides(pairs)
    return -has_chosen * F.logsigmoid(chosen) - has_rejected * F.logsigmoid(-rejected)


def _sides(pairs: PairLogps) -> tuple[Tensor, Tensor]:
    """1 where a pair has a chosen, and a rejected response; 0 where it has none; `(pairs,)`."""
    if pairs.chosen_lengths is None or pairs.rejected_lengths is None:
        one = torch.ones_like(pairs.reference_chosen)
        return one, one
    dtype = pairs.reference_chosen.dtype
    return (pairs.chosen_lengths > 0).to(dtype), (pairs.rejected_lengths > 0).to(dtype)
