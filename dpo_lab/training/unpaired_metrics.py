"""The logged metrics of single responses, under the keys of `metrics.py`.

Chosen are the responses that people liked, rejected the others. Means are over those of the batch,
as TRL's KTO logs them; `rewards/accuracies`, and the percentiles of margins, are over all pairs of
one liked and one other response, whatever their prompts. Where a batch has only one kind, what
needs the other is left out. `baseline` is what log-ratios were compared with, in nats: z0 of KTO,
delta over beta of BCO.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dpo_lab.objective.kl import Estimate
from dpo_lab.objective.pair_logps import LOGPS, PairLogps
from dpo_lab.training.metrics import pair_metrics

MOST = 256
"""Responses of each kind of which all pairs are looked at."""


def unpaired_metrics(
    losses: Tensor, pairs: PairLogps, weights: Tensor, beta: float
) -> dict[str, float]:
    """Metrics of a whole batch of single responses.

    Args:
        losses: `(responses,)`.
        pairs: Log-probabilities without gradient; a side that is missing has a length of 0.
        weights: `(responses,)`, how hard each one pulls.
        beta: The beta in use.
    """
    chosen, rejected = (lengths > 0 for lengths in pairs.lengths)
    values = {"loss": losses.mean().item(), "gradient_weight": weights.mean().item()}
    values["baseline"] = pairs.baseline
    if chosen.any() and rejected.any():
        crossed = pair_metrics(*_crossed(pairs, chosen, rejected), beta)
        return crossed | _means(pairs, beta, chosen, rejected) | values
    return _means(pairs, beta, chosen, rejected) | values


def margin_stderr(pairs: PairLogps) -> float:
    """Standard error of the difference of the two mean log-ratios, nats.

    Args:
        pairs: Log-probabilities of single responses.
    """
    chosen, rejected = (lengths > 0 for lengths in pairs.lengths)
    ratios = pairs.chosen_logratios[chosen], pairs.rejected_logratios[rejected]
    return sum(Estimate.of(side).stderr ** 2 for side in ratios) ** 0.5


def _means(pairs: PairLogps, beta: float, chosen: Tensor, rejected: Tensor) -> dict[str, float]:
    sides = {
        "chosen": (pairs.policy_chosen[chosen], pairs.chosen_logratios[chosen]),
        "rejected": (pairs.policy_rejected[rejected], pairs.rejected_logratios[rejected]),
    }
    values = {}
    for side, (logps, ratios) in sides.items():
        if len(ratios):
            mean = ratios.mean().item()
            values[f"logps/{side}"] = logps.mean().item()
            values[f"logratios/{side}"] = mean
            values[f"rewards/{side}"] = beta * mean
    if len(values) == 6:
        values["rewards/margins"] = values["rewards/chosen"] - values["rewards/rejected"]
    return values


def _crossed(
    pairs: PairLogps, chosen: Tensor, rejected: Tensor
) -> tuple[Tensor, PairLogps, Tensor]:
    """All pairs of a liked and another response, and their losses and weights, which count not."""
    ups, downs = (side.nonzero().squeeze(1)[:MOST] for side in (chosen, rejected))
    up, down = torch.cartesian_prod(ups, downs).unbind(1)
    places = {name: up if name.endswith("_chosen") else down for name in LOGPS}
    sides = {name: getattr(pairs, name)[place] for name, place in places.items()}
    nothing = torch.zeros(len(up))
    lengths = {"chosen_lengths": None, "rejected_lengths": None}
    crossed = replace(pairs, **sides, **lengths, score_margins=None, rankings=None)
    return nothing, crossed, nothing
