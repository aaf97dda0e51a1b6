"""Checks that the policy equals the reference when a run starts, and makes every margin 0."""

from __future__ import annotations

import torch
from torch import Tensor

from dpo_lab.objective.pair_logps import PairLogps

START_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
"""Largest log-ratio at the start, nats per token of the longest response, by precision."""


class NotTheReference(RuntimeError):
    """The policy is not the reference when training begins."""


def at_start(pairs: PairLogps, precision: str) -> PairLogps:
    """Pairs scored before the first step, with the policy's values replaced by the reference's.

    Both come from the same weights but from different batches, so the sums differ by rounding: a
    strict comparison of rewards would count about half of all ties as wins.

    Args:
        pairs: Log-probabilities, with lengths.
        precision: The precision in which they were scored.

    Raises:
        NotTheReference: If a log-ratio is more than rounding.
    """
    ratios = torch.cat([pairs.chosen_logratios, pairs.rejected_logratios])
    check_start(ratios, torch.stack(pairs.lengths).max().item(), precision)
    return pairs.with_policy(pairs.reference_chosen, pairs.reference_rejected)


def check_start(ratios: Tensor, longest: float, precision: str) -> None:
    """Raise unless the policy is the reference.

    Args:
        ratios: Log-ratios of responses before the first step, nats.
        longest: Tokens of the longest response.
        precision: The precision in which they were scored.

    Raises:
        NotTheReference: If a log-ratio is more than rounding.
    """
    worst = ratios.abs().max().item()
    if not worst <= START_TOLERANCE[precision] * longest:
        raise NotTheReference(
            f"log-ratio {worst:.4f} nats before the first step: the policy is not the "
            "reference, so rewards would not start at 0. Prepare the job again."
        )
