"""The one registry of preference losses, and weighted sums of them.

Larger beta keeps the policy closer to the reference; smaller beta lets it move further. (Where a
loss has no reference, its entry says what beta does.) Every loss takes the same `PairLogps` and
returns one value a pair; the training loop, the command line and the widgets read the names, the
options and the texts from `LOSSES`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from torch import Tensor

from dpo_lab.objective import anchored, likelihood, margins
from dpo_lab.objective.loss import DIVERGENCE, TESTED, Loss
from dpo_lab.objective.pairs import PairLogps

SMOOTHING = {"label_smoothing": 0.0}
DPO_REWARD = "implicit reward of the policy, up to a function of the prompt"
NOT_A_REWARD = "beta x log-ratio, to read margins by; not a Bradley-Terry reward"
NO_REFERENCE = "beta x log-ratio to where the policy began: drift, not what the loss rewards"
UNTIED = TESTED + "; no reference holds the policy"


LOSSES: dict[str, Loss] = {
    "sigmoid": Loss(
        margins.dpo_loss, "DPO", "-log sigmoid(beta * margin)",
        "Rafailov et al. 2023, Eq. 7", "2305.18290", DPO_REWARD,
        SMOOTHING, divergences=True, bradley_terry=True, trl="sigmoid",
        status=TESTED + "; reaches the exact optimum on micro, in answers of at most three words",
    ),
    "sigmoid_norm": Loss(
        margins.dpo_norm_loss, "Length-normalised DPO", "-log sigmoid(beta * mean margin)",
        "Lambert et al. 2024 (Tulu 3)", "2411.15124",
        "beta x summed log-ratio, though the loss sees means over tokens",
        divergences=True, per_token=True, trl="sigmoid_norm",
    ),
    "hinge": Loss(
        margins.hinge_loss, "Hinge", "max(0, 1 - beta * margin)",
        "Liu et al. 2023 (RSO), hinge-norm", "2309.06657",
        "beta x log-ratio, to read margins by (the target is 1); not a Bradley-Terry reward",
        divergences=True, trl="hinge",
    ),
    "ipo": Loss(
        margins.ipo_loss, "IPO", "(margin - 1 / (2 * beta))^2",
        "Azar et al. 2023, Eq. 17", "2310.12036",
        "beta x log-ratio, to read margins by (the target is 1/2); not a Bradley-Terry reward",
        divergences=True,
    ),
    "ipo_norm": Loss(
        margins.ipo_norm_loss, "IPO, averaged", "(mean margin - 1 / (2 * beta))^2",
        "Azar et al. 2023, Eq. 17, per token", "2310.12036", NOT_A_REWARD,
        divergences=True, per_token=True, trl="ipo",
    ),
    "robust": Loss(
        margins.robust_loss, "Robust DPO",
        "((1 - e) sigmoid(beta * margin) - e sigmoid(-beta * margin)) / (1 - 2e), each -log",
        "Chowdhury et al. 2024", "2403.00409", DPO_REWARD + ", of labels without flips",
        SMOOTHING, divergences=True, bradley_terry=True, trl="robust",
        status=TESTED + "; unbiased under flipped labels, not bounded below",
    ),
    "exo_pair": Loss(
        margins.exo_loss, "EXO", "KL(sigmoid(+-beta * margin) || (1 - e, e))",
        "Ji et al. 2024, Eq. 16", "2402.00856",
        NOT_A_REWARD + ": it ends at (2p - 1) log((1 - e) / e), p the label's probability",
        {"label_smoothing": 1e-3}, divergences=True, trl="exo_pair",
    ),
    "discopop": Loss(
        margins.discopop_loss, "DiscoPOP",
        "between -log sigmoid(m) and e^-m by sigmoid(m / tau), m = beta * margin",
        "Lu et al. 2024, Eq. 5", "2406.08414", NOT_A_REWARD,
        {"discopop_tau": 0.05}, divergences=True, trl="discopop",
        status=TESTED + "; not convex",
    ),
    "dpop": Loss(
        margins.dpop_loss, "DPO-positive",
        "-log sigmoid(beta * (margin - lambda * max(0, -chosen log-ratio)))",
        "Pal et al. 2024 (Smaug)", "2402.13228",
        NOT_A_REWARD + ", since chosen responses are kept from falling",
        {"dpop_lambda": 50.0},
    ),
    "nca_pair": Loss(
        anchored.nca_loss, "NCA",
        "-log sigmoid(r_w) - (log sigmoid(-r_w) + log sigmoid(-r_l)) / 2, r = beta * log-ratio",
        "Chen et al. 2024", "2402.05369",
        "ln(2 x share of times chosen), at most ln 2; as far as probabilities sum to one",
        trl="nca_pair",
    ),
    "bco_pair": Loss(
        anchored.bco_loss, "BCO", "-log sigmoid(r_w) - log sigmoid(-r_l), r = beta * log-ratio",
        "Jung et al. 2024", "2404.04656",
        "log-odds that a response is a chosen one; as far as probabilities sum to one",
        trl="bco_pair", status=TESTED + "; without the paper's shift delta, as in TRL",
    ),
    "sppo_hard": Loss(
        anchored.sppo_loss, "SPPO",
        "(chosen log-ratio - 1 / (2 beta))^2 + (rejected log-ratio + 1 / (2 beta))^2",
        "Wu et al. 2024, Eq. 4.7", "2405.00675",
        "beta x log-ratio; the targets are +1/2 and -1/2", trl="sppo_hard",
    ),
    "apo_zero": Loss(
        anchored.apo_zero_loss, "APO-zero", "sigmoid(-r_w) + sigmoid(r_l), r = beta * log-ratio",
        "D'Oosterlinck et al. 2024, Eq. 7", "2408.06266", NOT_A_REWARD, trl="apo_zero",
    ),
    "apo_down": Loss(
        anchored.apo_down_loss, "APO-down", "sigmoid(r_w) + sigmoid(-beta * margin)",
        "D'Oosterlinck et al. 2024, Eq. 8", "2408.06266", NOT_A_REWARD, trl="apo_down",
        status=TESTED + "; lowers chosen responses on purpose",
    ),
    "aot": Loss(
        anchored.aot_loss, "AOT", "-log sigmoid(beta * (policy's sorted - reference's sorted))",
        "Melnyk et al. 2024", "2406.05882", NOT_A_REWARD,
        SMOOTHING, whole_batch=True, trl="aot",
        status=TESTED + "; beside micro-batches a second forward pass",
    ),
    "aot_unpaired": Loss(
        anchored.aot_unpaired_loss, "AOT, unpaired",
        "-log sigmoid(beta * (chosen sorted - rejected sorted)), of log-ratios",
        "Melnyk et al. 2024", "2406.05882", NOT_A_REWARD,
        SMOOTHING, whole_batch=True, trl="aot_unpaired",
        status=TESTED + "; beside micro-batches a second forward pass",
    ),
    "sft": Loss(
        likelihood.sft_loss, "SFT on the chosen", "-log pi(y_w|x) per token; beta has no part",
        "Pang et al. 2024, beside DPO", "2404.19733", NO_REFERENCE,
        reference_free=True, per_token=True, trl="sft", status=UNTIED,
    ),
    "simpo": Loss(
        likelihood.simpo_loss, "SimPO",
        "-log sigmoid(beta * (mean logp of chosen - of rejected) - gamma)",
        "Meng et al. 2024, Eq. 6", "2405.14734", NO_REFERENCE,
        {"simpo_gamma": 0.5, **SMOOTHING}, reference_free=True, per_token=True,
        trl="simpo (CPOTrainer)", status=UNTIED,
    ),
    "cpo": Loss(
        likelihood.cpo_loss, "CPO", "-log sigmoid(beta * (logp of chosen - of rejected)) + a * sft",
        "Xu et al. 2024, Eq. 3", "2401.08417", NO_REFERENCE,
        {"cpo_alpha": 1.0, **SMOOTHING}, reference_free=True, per_token=True,
        trl="sigmoid (CPOTrainer)", status=UNTIED,
    ),
    "orpo": Loss(
        likelihood.orpo_loss, "ORPO", "sft - beta * log sigmoid(log odds of chosen - of rejected)",
        "Hong et al. 2024, Eq. 6", "2403.07691", NO_REFERENCE,
        reference_free=True, per_token=True, trl="(ORPOTrainer)",
        status=UNTIED + "; larger beta moves further",
    ),
}  # fmt: skip
"""Every loss by its name: TRL's, where TRL has it. TRL's `ipo` is `ipo_norm` here."""

SUMS = ("sigmoid + 0.2 sft", "0.8 sigmoid + 0.2 bco_pair + sft")
"""Weighted sums that people use: DPO with the chosen's likelihood (Pang et al. 2024), and MPO."""

OPTIONS = tuple(dict.fromkeys(name for loss in LOSSES.values() for name in loss.options))
"""Every option that some loss takes."""


@cache
def find_loss(name: str) -> Loss:
    """A loss by its name, or a weighted sum such as `sigmoid + 0.2 sft`.

    Every member of a sum takes those of the options that it knows, and has its own default where
    one is not given.

    Args:
        name: A name of `LOSSES`, or several joined by `+`, each with a weight before it or none.

    Raises:
        ValueError: If a name is unknown, or a weight is not a positive number.
    """
    terms = [_TERM.fullmatch(part) for part in name.split("+")]
    known = [term and term[2] in LOSSES for term in terms]
    if not all(known):
        wrong = name.split("+")[known.index(False) if False in known else known.index(None)].strip()
        raise ValueError(
            f"loss={name!r}: {wrong!r} is unknown. Use one of {', '.join(LOSSES)}; or a weighted "
            "sum, such as 'sigmoid + 0.2 sft'."
        )
    weighed = [(float(term[1] or 1), LOSSES[term[2]]) for term in terms]
    if any(weight <= 0 for weight, _ in weighed):
        raise ValueError(f"loss={name!r}: a weight is not above 0. Leave that loss out.")
    return weighed[0][1] if weighed == [(1.0, weighed[0][1])] else _sum_of(weighed)


_TERM = re.compile(r"\s*([0-9]*\.?[0-9]+)?\s*\*?\s*([a-z_]+)\s*")


def _sum_of(weighed: list[tuple[float, Loss]]) -> Loss:
    members = [loss for _, loss in weighed]
    # A divergence in some terms only would tie the policy to its reference in two ways.
    divergences = all(loss.divergences or loss.reference_free for loss in members)
    allowed = set(OPTIONS) - (set() if divergences else set(DIVERGENCE))

    def total(pairs: PairLogps, beta: float, **options: Any) -> Tensor:
        return sum(
            weight * loss(pairs, beta, **{k: v for k, v in options.items() if k in loss.options})
            for weight, loss in weighed
        )

    def joined(attribute: str, between: str, weights: bool = False) -> str:
        texts = [
            (f"{weight:g} x " if weights and weight != 1 else "") + getattr(loss, attribute)
            for weight, loss in weighed
        ]
        return between.join(dict.fromkeys(texts))

    return Loss(
        total,
        joined("title", " + ", weights=True),
        joined("formula", " + ", weights=True),
        joined("citation", "; "),
        "",
        joined("reward_meaning", "; and: "),
        # To look at: each member keeps its own default of what is not given.
        {k: v for loss in reversed(members) for k, v in loss.options.items() if k in allowed},
        whole_batch=any(loss.whole_batch for loss in members),
        reference_free=all(loss.reference_free for loss in members),
        per_token=any(loss.per_token for loss in members),
        trl="" if not all(loss.trl for loss in members) else joined("trl", " + "),
        status=joined("status", "; "),
        members=tuple(members),
    )
