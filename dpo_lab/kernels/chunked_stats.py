"""Next-token KL, entropy and square sums, computed a chunk of logits at a time.

Each result is one number per token, so no `(tokens, vocabulary)` array outlives its chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dpo_lab.kernels.head import CHUNK_ELEMENTS


@dataclass(frozen=True)
class TokenComparison:
    """Policy compared with reference at each step of a response, each `(tokens,)`, nats.

    Attributes:
        kl: Exact KL(policy || reference) of the next token.
        log_ratio: `log pi(y_t|y_<t) - log pi_ref(y_t|y_<t)` of the sampled token.
        entropy: The policy's entropy over the next token.
    """

    kl: Tensor
    log_ratio: Tensor
    entropy: Tensor


@torch.no_grad()
def compare_tokens(
    policy_logits_of: Callable[[slice], Tensor],
    reference_logits_of: Callable[[slice], Tensor],
    targets: Tensor,
    vocabulary: int,
) -> TokenComparison:
    """KL, log-ratio and entropy of each step, chunk by chunk.

    Over samples of the policy, the mean summed log-ratio of a response estimates the same KL; the
    log-ratio of a single response may be negative.

    Args:
        policy_logits_of: Given a slice of tokens, the policy's float32 logits there.
        reference_logits_of: The same for the reference.
        targets: `(tokens,)`, the sampled tokens.
        vocabulary: Size of a row of logits; sets the chunk.
    """
    size = max(1, CHUNK_ELEMENTS // vocabulary)
    parts = [torch.zeros(3, 0, device=targets.device)]
    for start in range(0, len(targets), size):
        rows = slice(start, min(start + size, len(targets)))
        policy = policy_logits_of(rows).log_softmax(dim=-1)
        difference = policy - reference_logits_of(rows).log_softmax(dim=-1)
        probability = policy.exp()
        kl = (probability * difference).sum(dim=-1)
        log_ratio = difference.gather(-1, targets[rows, None]).squeeze(-1)
        parts.append(torch.stack([kl, log_ratio, -(probability * policy).sum(dim=-1)]))
    return TokenComparison(*torch.cat(parts, dim=1))


@torch.no_grad()
def log_square_sums(
    logits_of: Callable[[slice], Tensor], tokens: int, vocabulary: int, like: Tensor
) -> Tensor:
    """`log sum_v p(v)^2` of the next token at each step, chunk by chunk.

    This is the log-probability that two samples of the model agree. Subtracted from a token's
    log-probability, it shows how typical the token is of the model's own samples.

    Args:
        logits_of: Given a slice of tokens, the float32 logits there.
        tokens: Number of tokens.
        vocabulary: Size of a row of logits; sets the chunk.
        like: A tensor with the device and dtype of the result.

    Returns:
        `(tokens,)`, nats.
    """
    size = max(1, CHUNK_ELEMENTS // vocabulary)
    sums = like.new_empty(tokens)
    for start in range(0, tokens, size):
        rows = slice(start, min(start + size, tokens))
        sums[rows] = (2 * logits_of(rows).log_softmax(-1)).logsumexp(-1)
    return sums
