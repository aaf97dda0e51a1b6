"""Losses of scored and of ranked responses: DPO with an offset, Plackett-Luce.

Arguments, returns and errors as in `dpo.py`.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo_lab.objective.checks import check_beta, check_not_negative
from dpo_lab.objective.pair_logps import PairLogps
from dpo_lab.objective.registry import DPO_REWARD, NOT_A_REWARD, TESTED, register

Transform = Literal["identity", "log"]
TRANSFORMS = get_args(Transform)
"""What ODPO may do to a score difference before it becomes an offset."""


@register(
    "odpo",
    title="DPO with an offset",
    formula="-log sigmoid(beta * margin - alpha * f(score of chosen - score of rejected))",
    citation="Amini et al. 2024 (ODPO)",
    arxiv="2402.10571",
    rewards=NOT_A_REWARD + ": margins of clear pairs end larger by the offset",
    of_margin=True,
    uses_scores=True,
)
def odpo_loss(
    pairs: PairLogps, beta: float, odpo_alpha: float = 1.0, odpo_transform: str = "identity"
) -> Tensor:
    """DPO that asks for a larger margin where one response is much better than the other.

    The data must have both scores. Alpha is the weight of the offset, 0 being DPO; f is the
    identity, or the logarithm, under which a difference of 1 asks for as much as DPO, a smaller
    one for less, and a tie for nothing.

    Source:
        Amini et al. 2024 (ODPO), whose experiments use the logarithm.
    """
    check_beta(beta)
    check_not_negative("odpo_alpha", odpo_alpha, "0 is DPO.")
    if odpo_transform not in TRANSFORMS:
        raise ValueError(
            f"odpo_transform={odpo_transform!r}: unknown. Use one of {', '.join(TRANSFORMS)}."
        )
    if pairs.score_margins is None or pairs.score_margins.isnan().any():
        raise ValueError(
            "score_margins=None: this loss needs the scores of both responses. Give the columns "
            "score_chosen and score_rejected, or use another loss."
        )
    differences = pairs.score_margins
    if odpo_transform == "log" and (differences < 0).any():
        raise ValueError(
            f"odpo_transform='log': a score difference is {differences.min().item():g}, which has "
            "no logarithm. Use odpo_transform='identity', or leave such pairs out."
        )
    offsets = differences if odpo_transform == "identity" else differences.log()
    logits = beta * pairs.margins - (odpo_alpha * offsets if odpo_alpha else 0)
    return -F.logsigmoid(logits)


@register(
    "plackett_luce",
    title="DPO of rankings (Plackett-Luce)",
    formula="-log(e^r / sum of e^r over it and all that rank below), each response but the last",
    citation="Rafailov et al. 2023, Eq. 20",
    arxiv="2305.18290",
    rewards=DPO_REWARD,
    couples_pairs=True,
    ranked=True,
    bradley_terry=True,
    status=TESTED + "; needs a prompt's pairs in one batch; micro-batches cost a second forward",
)
def plackett_luce_loss(pairs: PairLogps, beta: float) -> Tensor:
    """The likelihood of a whole ranking: its best response is chosen among all, and so on.

    A ranking of K responses is its K (K - 1) / 2 pairs. Those with one chosen response say together
    that it ranks above the rejected ones: `log(1 + sum of e^(-beta * margin))` over them. That is
    DPO for a single pair. A pair's value is an equal part of its ranking step's, so that the values
    of a batch add up to its rankings' losses; of a step whose pairs are not all in the batch, those
    that are count.

    Source:
        Rafailov et al. 2023, appendix A.3, Eq. 18 to 20.
    """
    check_beta(beta)
    if pairs.rankings is None:
        return -F.logsigmoid(beta * pairs.margins)
    logits = -beta * pairs.margins
    _, group = pairs.rankings.unique(return_inverse=True)
    sizes = group.bincount()
    # Largest term first, so that no exponential overflows; 0 is the chosen response's own.
    largest = logits.detach().new_zeros(len(sizes))
    largest = largest.scatter_reduce(0, group, logits.detach(), "amax")
    terms = (logits - largest[group]).exp()
    sums = torch.exp(-largest).index_add(0, group, terms)
    return ((largest + sums.log()) / sizes)[group]
