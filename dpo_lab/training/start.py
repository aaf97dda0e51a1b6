"""The start of a run: the policy is the reference, so every margin is an exact tie."""

from __future__ import annotations

import torch

from dpo_lab.objective.pair_logps import PairLogps

START_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
"""Largest log-ratio at the start, nats per token of the longest response, by precision."""


class NotTheReference(RuntimeError):
    """The policy is not the reference when training begins."""


def at_start(pairs: PairLogps, precision: str) -> PairLogps:
    """Pairs scored before the first step, with the reference's values as the policy's.

    Both come from the same weights, but from other batches, and the sums differ by rounding: a
    strict comparison of rewards would call about half of all ties a win.

    Args:
        pairs: With numbers of tokens.
        precision: That they were scored in.

    Raises:
        NotTheReference: If a log-ratio is more than rounding.
    """
    longest = torch.stack(pairs.lengths).max().item()
    ratios = pairs.chosen_logratios, pairs.rejected_logratios
    worst = max(ratio.abs().max().item() for ratio in ratios)
    if not worst <= START_TOLERANCE[precision] * longest:
        raise NotTheReference(
            f"log-ratio {worst:.4f} nats before the first step: the policy is not the "
            "reference, so rewards would not start at 0. Prepare the job again."
        )
    return pairs.with_policy(pairs.reference_chosen, pairs.reference_rejected)
