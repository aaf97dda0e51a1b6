"""The DPO loss (Eq. 7) and other losses of the margin alone: IPO, hinge, robust, EXO, DiscoPOP.

Every loss of this package takes `pairs` and `beta`, and returns one value per pair:

- `pairs`: a `PairLogps`, summed log-probabilities of the policy and of its reference for the
  chosen response y_w and the rejected response y_l of each prompt x, each `(pairs,)`, in nats;
- `beta` > 0: larger beta keeps the policy closer to the reference, smaller beta lets it move
  further; a loss in which beta means something else says so;
- it returns `(pairs,)`, in nats unless it says otherwise;
- it raises `ValueError` for a value out of range, and where it needs lengths that `pairs` lacks.

The decorator registers the function: name, formula, paper, and what its rewards mean. Its options
are the keyword arguments of its signature.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo_lab.objective.checks import check_beta, check_positive, check_smoothing
from dpo_lab.objective.pair_logps import PairLogps
from dpo_lab.objective.registry import DPO_REWARD, NOT_A_REWARD, TESTED, register


@register(
    "sigmoid",
    title="DPO",
    formula="-log sigmoid(beta * margin)",
    citation="Rafailov et al. 2023, Eq. 7",
    arxiv="2305.18290",
    rewards=DPO_REWARD,
    of_margin=True,
    bradley_terry=True,
    trl="sigmoid",
    status=TESTED + "; reaches the exact optimum on micro, in answers of at most three words",
)
def dpo_loss(pairs: PairLogps, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """DPO; with label smoothing, conservative DPO.

    It makes the policy prefer the chosen response more than the reference does; it is ln 2 where
    they are equal. With smoothing e its minimum is at the finite margin `log((1 - e) / e) / beta`.

    Source:
        Rafailov et al. 2023, Eq. 7. Smoothing: Mitchell 2023, "A note on DPO with noisy preferences
        & relationship to IPO", Eq. 3.
    """
    check_beta(beta)
    check_smoothing(label_smoothing)
    chosen_logratios = pairs.policy_chosen - pairs.reference_chosen  # log pi(y_w|x) / pi_ref(y_w|x)
    rejected_logratios = pairs.policy_rejected - pairs.reference_rejected  # the same of y_l
    logits = beta * (chosen_logratios - rejected_logratios)
    kept, flipped = F.logsigmoid(logits), F.logsigmoid(-logits)
    return -(1 - label_smoothing) * kept - label_smoothing * flipped


@register(
    "sigmoid_norm",
    title="Length-normalised DPO",
    formula="-log sigmoid(beta * mean margin)",
    citation="Lambert et al. 2024 (Tulu 3)",
    arxiv="2411.15124",
    rewards="beta x summed log-ratio, although the loss uses means over tokens",
    of_margin=True,
    uses_lengths=True,
    trl="sigmoid_norm",
)
def dpo_norm_loss(pairs: PairLogps, beta: float) -> Tensor:
    """DPO of log-ratios averaged over each response's tokens.

    So length alone does not make a log-ratio large. Averages are small: choose beta, which scales
    nats per token here, ten to a hundred times larger than for DPO.

    Source:
        Lambert et al. 2024, section 5.
    """
    check_beta(beta)
    logits = beta * pairs.per_token().margins
    return -F.logsigmoid(logits)


@register(
    "hinge",
    title="Hinge",
    formula="max(0, 1 - beta * margin)",
    citation="Liu et al. 2023 (RSO), hinge-norm",
    arxiv="2309.06657",
    rewards="beta x log-ratio, for reading margins (the target is 1); not a Bradley-Terry reward",
    of_margin=True,
    trl="hinge",
)
def hinge_loss(pairs: PairLogps, beta: float) -> Tensor:
    """Every pair is pushed with the same force until its reward margin is 1, then not at all.

    Source:
        Zhao et al. 2023 (SLiC-HF, arXiv 2305.10425); with a reference, the "hinge-norm" loss of Liu
        et al. 2023.
    """
    check_beta(beta)
    logits = beta * pairs.margins
    return torch.relu(1 - logits)


@register(
    "ipo",
    title="IPO",
    formula="(margin - 1 / (2 * beta))^2",
    citation="Azar et al. 2023, Eq. 17",
    arxiv="2310.12036",
    rewards="beta x log-ratio, for reading margins (the target is 1/2); not a Bradley-Terry reward",
    of_margin=True,
)
def ipo_loss(pairs: PairLogps, beta: float) -> Tensor:
    """Pulls every margin to one target, so pairs that always get the same label do not diverge.

    The loss is in nats squared; beta is the paper's tau.

    Source:
        Azar et al. 2023, Eq. 17.

    Note:
        Log-ratios are summed over tokens, as in the paper's Eq. 17 and Mitchell's code. TRL's `ipo`
        averages them over tokens (`ipo_norm` here): the two need different values of tau.
    """
    check_beta(beta)
    return (pairs.margins - 1 / (2 * beta)).square()


@register(
    "ipo_norm",
    title="IPO, averaged",
    formula="(mean margin - 1 / (2 * beta))^2",
    citation="Azar et al. 2023, Eq. 17, per token",
    arxiv="2310.12036",
    rewards=NOT_A_REWARD,
    of_margin=True,
    uses_lengths=True,
    trl="ipo",
)
def ipo_norm_loss(pairs: PairLogps, beta: float) -> Tensor:
    """IPO of log-ratios averaged over each response's tokens; TRL calls it `ipo`.

    Source:
        Azar et al. 2023, Eq. 17. Averaging is TRL's; its code says that the authors confirmed it.
    """
    check_beta(beta)
    return (pairs.per_token().margins - 1 / (2 * beta)).square()


@register(
    "robust",
    title="Robust DPO",
    formula="((1 - e) sigmoid(beta * margin) - e sigmoid(-beta * margin)) / (1 - 2e), each -log",
    citation="Chowdhury et al. 2024",
    arxiv="2403.00409",
    rewards=DPO_REWARD + ", of labels without flips",
    of_margin=True,
    bradley_terry=True,
    trl="robust",
    status=TESTED + "; unbiased under flipped labels, not bounded below",
)
def robust_loss(pairs: PairLogps, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """The loss whose mean over random flips of the labels is the DPO loss.

    Conservative DPO asks for less confidence; this one corrects for the noise instead. It is
    unbiased, has a larger variance, and may be negative.

    Source:
        Chowdhury et al. 2024.
    """
    check_beta(beta)
    check_smoothing(label_smoothing)
    logits = beta * pairs.margins
    kept, flipped = F.logsigmoid(logits), F.logsigmoid(-logits)
    return (-(1 - label_smoothing) * kept + label_smoothing * flipped) / (1 - 2 * label_smoothing)


@register(
    "exo_pair",
    title="EXO",
    formula="KL(sigmoid(+-beta * margin) || (1 - e, e))",
    citation="Ji et al. 2024, Eq. 16",
    arxiv="2402.00856",
    rewards=NOT_A_REWARD + ": its margin ends at (2p - 1) log((1 - e) / e), p the label's chance",
    of_margin=True,
    trl="exo_pair",
)
def exo_loss(pairs: PairLogps, beta: float, label_smoothing: float = 1e-3) -> Tensor:
    """The reverse KL between the policy's choice among the two responses and the smoothed label.

    Conservative DPO is the forward KL, up to a constant. Reverse KL is mode-seeking: it avoids
    outcomes that the label makes unlikely rather than covering all of its distribution.

    For labels drawn with probability p, the mean loss is least at the reward margin
    `(2p - 1) log((1 - e) / e)`; a Bradley-Terry reward has `log(p / (1 - p))`. So beta x log-ratio
    is not such a reward, and pi* is not the optimum. `e` must be above 0, or a label would have an
    infinite weight.

    Source:
        Ji et al. 2024, Eq. 16.
    """
    check_beta(beta)
    check_smoothing(label_smoothing)
    if label_smoothing == 0:
        raise ValueError(
            "label_smoothing=0: exo_pair takes the logarithm of it. The paper uses 1e-3."
        )
    logits = beta * pairs.margins
    chosen, rejected = F.logsigmoid(logits), F.logsigmoid(-logits)
    # log1p is exact for a small epsilon.
    of_chosen = chosen.exp() * (chosen - math.log1p(-label_smoothing))
    return of_chosen + rejected.exp() * (rejected - math.log(label_smoothing))


@register(
    "discopop",
    title="DiscoPOP",
    formula="between -log sigmoid(m) and e^-m by sigmoid(m / tau), m = beta * margin",
    citation="Lu et al. 2024, Eq. 5",
    arxiv="2406.08414",
    rewards=NOT_A_REWARD,
    of_margin=True,
    trl="discopop",
    status=TESTED + "; not convex",
)
def discopop_loss(pairs: PairLogps, beta: float, discopop_tau: float = 0.05) -> Tensor:
    """A blend of the logistic and the exponential loss, discovered by a language model.

    With `m = beta * margin` and `s = sigmoid(m / tau)`: `-(1 - s) log sigmoid(m) + s e^-m`. It is
    not convex: around `m = 0` it rises a little before it falls again.

    Source:
        Lu et al. 2024, Eq. 5.

    Note:
        `s e^-m` is computed as one exponential: as a product it is 0 times infinity for a margin
        far below 0.
    """
    check_beta(beta)
    check_positive("discopop_tau", discopop_tau, "The paper's value is 0.05.")
    logits = beta * pairs.margins
    logistic = -F.logsigmoid(logits) * torch.sigmoid(-logits / discopop_tau)
    return logistic + torch.exp(F.logsigmoid(logits / discopop_tau) - logits)


def smoothed_nll(logits: Tensor, label_smoothing: float) -> Tensor:
    """`-log sigmoid(logits)` with label smoothing, as in `dpo_loss`, `(pairs,)`."""
    check_smoothing(label_smoothing)
    kept, flipped = F.logsigmoid(logits), F.logsigmoid(-logits)
    return -(1 - label_smoothing) * kept - label_smoothing * flipped
