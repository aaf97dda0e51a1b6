"""Preference losses that pull each response's reward, not only the margin: NCA, BCO, APO, AOT, ...

Arguments, returns and errors as in `dpo.py`; `r` is a response's reward, `beta * log-ratio`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo_lab.objective.checks import check_beta, check_not_negative
from dpo_lab.objective.dpo import smoothed_nll
from dpo_lab.objective.pair_logps import PairLogps
from dpo_lab.objective.registry import NOT_A_REWARD, TESTED, register


@register(
    "dpop",
    title="DPO-positive",
    formula="-log sigmoid(beta * (margin - lambda * max(0, -chosen log-ratio)))",
    citation="Pal et al. 2024 (Smaug)",
    arxiv="2402.13228",
    rewards=NOT_A_REWARD + ", because of the penalty on falling chosen responses",
)
def dpop_loss(pairs: PairLogps, beta: float, dpop_lambda: float = 50.0) -> Tensor:
    """DPO with a penalty on chosen responses that lose probability: a remedy for displacement.

    Lambda is the penalty's weight; 0 gives DPO. While the penalty is active, beta x log-ratio is
    not a Bradley-Terry reward, and pi* is not the optimum.

    Source:
        Pal et al. 2024, whose experiments use lambda 50.
    """
    check_beta(beta)
    check_not_negative("dpop_lambda", dpop_lambda, "0 is DPO.")
    fallen = torch.relu(-pairs.chosen_logratios)
    logits = beta * (pairs.margins - dpop_lambda * fallen)
    return -F.logsigmoid(logits)


@register(
    "nca_pair",
    title="NCA",
    formula="-log sigmoid(r_w) - (log sigmoid(-r_w) + log sigmoid(-r_l)) / 2, r = beta * log-ratio",
    citation="Chen et al. 2024",
    arxiv="2402.05369",
    rewards="ln(2 x share of times chosen), at most ln 2, if normalised probabilities allow it",
    trl="nca_pair",
)
def nca_loss(pairs: PairLogps, beta: float) -> Tensor:
    """Pulls the chosen reward up, and half as strongly down; pulls the rejected reward down.

    So the chosen reward ends at `ln 2` and does not fall. The loss is 2 ln 2 at the reference.

    Source:
        Chen et al. 2024 (NCA), for two responses and a hard label.
    """
    check_beta(beta)
    chosen, rejected = beta * pairs.chosen_logratios, beta * pairs.rejected_logratios
    return -F.logsigmoid(chosen) - (F.logsigmoid(-chosen) + F.logsigmoid(-rejected)) / 2


@register(
    "bco_pair",
    title="BCO",
    formula="-log sigmoid(r_w) - log sigmoid(-r_l), r = beta * log-ratio",
    citation="Jung et al. 2024",
    arxiv="2404.04656",
    rewards="log-odds that a response is a chosen one, if normalised probabilities allow it",
    trl="bco_pair",
    status=TESTED + "; without the paper's shift delta, as in TRL",
)
def bco_loss(pairs: PairLogps, beta: float) -> Tensor:
    """A binary classifier: is this response a chosen one?

    An upper bound of the DPO loss that also pushes the chosen response up. 2 ln 2 at the
    reference.

    Source:
        Jung et al. 2024 (BCO).

    Note:
        As in TRL, the paper's shift delta (the running mean of the rewards) is left out. So a
        reward is the log-odds of being a chosen response only if the policy, whose probabilities
        must sum to one, can reach it.
    """
    check_beta(beta)
    chosen, rejected = beta * pairs.chosen_logratios, beta * pairs.rejected_logratios
    return -F.logsigmoid(chosen) - F.logsigmoid(-rejected)


@register(
    "sppo_hard",
    title="SPPO",
    formula="(chosen log-ratio - 1 / (2 beta))^2 + (rejected log-ratio + 1 / (2 beta))^2",
    citation="Wu et al. 2024, Eq. 4.7",
    arxiv="2405.00675",
    rewards="beta x log-ratio; the targets are +1/2 and -1/2",
    trl="sppo_hard",
)
def sppo_loss(pairs: PairLogps, beta: float) -> Tensor:
    """A target for each log-ratio: `1 / (2 beta)` for the chosen, the negative for the rejected.

    The loss is in nats squared; beta is the inverse of the paper's eta.

    Source:
        Wu et al. 2024 (SPPO), Eq. 4.7 with win probabilities of 1 and 0.
    """
    check_beta(beta)
    target = 1 / (2 * beta)
    chosen_error = pairs.chosen_logratios - target
    rejected_error = pairs.rejected_logratios + target
    return chosen_error.square() + rejected_error.square()


@register(
    "apo_zero",
    title="APO-zero",
    formula="sigmoid(-r_w) + sigmoid(r_l), r = beta * log-ratio",
    citation="D'Oosterlinck et al. 2024, Eq. 7",
    arxiv="2408.06266",
    rewards=NOT_A_REWARD,
    trl="apo_zero",
)
def apo_zero_loss(pairs: PairLogps, beta: float) -> Tensor:
    """For data better than the model: chosen up, rejected down. In (0, 2), no unit.

    Source:
        D'Oosterlinck et al. 2024 (APO), Eq. 7.
    """
    check_beta(beta)
    chosen, rejected = beta * pairs.chosen_logratios, beta * pairs.rejected_logratios
    return torch.sigmoid(-chosen) + torch.sigmoid(rejected)


@register(
    "apo_down",
    title="APO-down",
    formula="sigmoid(r_w) + sigmoid(-beta * margin)",
    citation="D'Oosterlinck et al. 2024, Eq. 8",
    arxiv="2408.06266",
    rewards=NOT_A_REWARD,
    trl="apo_down",
    status=TESTED + "; lowers chosen responses on purpose",
)
def apo_down_loss(pairs: PairLogps, beta: float) -> Tensor:
    """For data worse than the model: both down, the rejected more. In (0, 2), no unit.

    Source:
        D'Oosterlinck et al. 2024 (APO), Eq. 8.
    """
    check_beta(beta)
    chosen, logits = beta * pairs.chosen_logratios, beta * pairs.margins
    return torch.sigmoid(chosen) + torch.sigmoid(-logits)


@register(
    "aot",
    title="AOT",
    formula="-log sigmoid(beta * (policy's sorted - reference's sorted))",
    citation="Melnyk et al. 2024",
    arxiv="2406.05882",
    rewards=NOT_A_REWARD,
    couples_pairs=True,
    trl="aot",
    status=TESTED + "; with micro-batches it needs a second forward pass",
)
def aot_loss(pairs: PairLogps, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Distributional alignment by optimal transport, paired: compares sorted margins.

    Over the batch, `log pi(y_w|x) - log pi(y_l|x)` is sorted for the policy, and separately for
    the reference; the loss is the DPO loss of the differences of the two sorted lists. It asks for
    a distribution above the reference's, whatever the order of pairs. Each value belongs to a rank,
    not to a pair, so use the mean; `pairs` must be the whole batch.

    Source:
        Melnyk et al. 2024 (AOT).
    """
    check_beta(beta)
    policy = (pairs.policy_chosen - pairs.policy_rejected).sort().values
    reference = (pairs.reference_chosen - pairs.reference_rejected).sort().values
    logits = beta * (policy - reference)
    return smoothed_nll(logits, label_smoothing)


@register(
    "aot_unpaired",
    title="AOT, unpaired",
    formula="-log sigmoid(beta * (chosen sorted - rejected sorted)), of log-ratios",
    citation="Melnyk et al. 2024",
    arxiv="2406.05882",
    rewards=NOT_A_REWARD,
    couples_pairs=True,
    trl="aot_unpaired",
    status=TESTED + "; with micro-batches it needs a second forward pass",
)
def aot_unpaired_loss(pairs: PairLogps, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Distributional alignment by optimal transport, unpaired: chosen above rejected log-ratios.

    The chosen and the rejected log-ratios are sorted separately over the batch; the loss is the DPO
    loss of their differences. It needs no pairs: chosen and rejected may answer different prompts.
    Each value belongs to a rank, as for `aot`.

    Source:
        Melnyk et al. 2024 (AOT).
    """
    check_beta(beta)
    chosen, rejected = pairs.chosen_logratios.sort().values, pairs.rejected_logratios.sort().values
    logits = beta * (chosen - rejected)
    return smoothed_nll(logits, label_smoothing)
