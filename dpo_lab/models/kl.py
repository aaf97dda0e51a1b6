"""KL(policy || reference), measured on the policy's own samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dpo_lab.data.batching import Batch
from dpo_lab.kernels.chunked_stats import compare_tokens
from dpo_lab.models.processes import ALONE, Processes
from dpo_lab.models.reference import Reference
from dpo_lab.models.sampling import Completion, share_cut
from dpo_lab.models.scoring import LogpScorer
from dpo_lab.objective.kl import Estimate, k3


@dataclass(frozen=True)
class MeasuredKL:
    """Three estimates of KL(policy || reference) of whole responses, in nats, on the same samples.

    Attributes:
        per_token: Sum over steps of the exact KL of the next token, over the whole vocabulary: the
            log-ratio with each step's token averaged out (Rao-Blackwellised).
        k1: Plain log-ratio of the samples, Schulman's k1.
        k3: Schulman's k3 of the same log-ratios.
        entropy: The policy's entropy over the next token, nats, mean over all tokens.
        cut: Share of answers cut at the length limit. If it is above 0, the estimates are lower
            bounds of the KL of whole answers: the tokens after the limit would add to it.
    """

    per_token: Estimate
    k1: Estimate
    k3: Estimate
    entropy: float
    cut: float = 0.0


@torch.no_grad()
def measure_kl(
    policy: LogpScorer,
    reference: Reference,
    completions: Sequence[Completion],
    token_budget: int = 4096,
    processes: Processes = ALONE,
) -> MeasuredKL:
    """Estimate KL(policy || reference) from samples of the policy at temperature 1, without top-p.

    Answers that reached the length limit count up to the limit. This is the KL of the truncated
    answers, a lower bound of the KL of whole answers: by the chain rule every further token adds a
    KL that is never negative.

    Args:
        policy: Scorer of the policy.
        reference: The reference.
        completions: Answers sampled from the policy.
        token_budget: Most padded tokens in a forward pass.
        processes: Those that divide the work.

    Returns:
        The estimates, where n is the number of answers and standard errors are clustered by prompt;
        the entropy; and the share of answers that were cut.
    """
    sequences = [(completion.prompt, completion.ids) for completion in completions]
    rows: list[int] = []
    values = torch.zeros(3, len(sequences), dtype=policy.sum_dtype)
    for indices, batch in policy.batches(sequences, token_budget, processes):
        compared = reference.gathered(partial(_compare, policy, reference, batch))
        values[:, indices] = compared[:, : len(indices)]
        rows += indices
    per_token, k1, entropy = (processes.joined(len(sequences), rows, each[rows]) for each in values)
    tokens = sum(len(ids) for _, ids in sequences)
    prompts = [completion.prompt for completion in completions]
    estimates = [Estimate.of(values, prompts) for values in (per_token, k1, k3(k1))]
    return MeasuredKL(*estimates, entropy.sum().item() / max(1, tokens), share_cut(completions))


def _compare(policy: LogpScorer, reference: Reference, batch: Batch) -> Tensor:
    """Per-token KL, log-ratio and entropy of each response, `(3, responses)`, summed over it."""
    states = policy.states(batch)
    with reference.active() as scorer:
        reference_states = scorer.states(batch)

    def reference_logits(rows: slice) -> torch.Tensor:
        with reference.active() as scorer:
            return scorer.logits(reference_states[rows])

    tokens = compare_tokens(
        lambda rows: policy.logits(states[rows]), reference_logits, batch.targets, policy.vocabulary
    )
    parts = tokens.kl, tokens.log_ratio, tokens.entropy
    return torch.stack([batch.sums(part).cpu() for part in parts])
