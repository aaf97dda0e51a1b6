"""What losses of single responses compare a log-ratio with, of a batch: KTO's z0."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from dpo_lab.data.pair_ids import TokenizedPair
from dpo_lab.data.text_to_ids import PromptResponse
from dpo_lab.models.scoring import score_sequences
from dpo_lab.training.job import Job


def kto_baseline(job: Job, pairs: Sequence[TokenizedPair]) -> float:
    """KTO's z0: mean log-ratio of responses to other prompts, or 0 if that is negative, nats.

    Args:
        job: Gives the policy and the reference.
        pairs: The single responses of a batch.

    Source:
        Ethayarajh et al. 2024 (KTO), section 4.2: an estimate of KL(policy || reference).
    """
    sequences = mismatched(pairs)
    budget, processes = job.config.micro_batch_tokens, job.processes
    policy = score_sequences(job.scorer, sequences, budget, processes=processes)
    with job.reference.active() as frozen:
        reference = score_sequences(frozen, sequences, budget, processes=processes)
    return max(0.0, (policy - reference).mean().item())


def mismatched(pairs: Sequence[TokenizedPair]) -> list[PromptResponse]:
    """Every prompt of a batch with the response that comes next in it, the last with the first.

    A response to the same prompt is passed over, as long as the batch has one to another.

    Args:
        pairs: Single responses.
    """
    responses = [pair.chosen or pair.rejected for pair in pairs]
    found = []
    for at, pair in enumerate(pairs):
        after = [*range(at + 1, len(pairs)), *range(at)] or [at]
        others = (place for place in after if pairs[place].prompt != pair.prompt)
        found.append((pair.prompt, responses[next(chain(others, after))]))
    return found
