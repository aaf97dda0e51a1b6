"""Log-probabilities of responses from logits, by the plain definition.

At training time `kernels/head.py` gives the same numbers without holding the logits.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_logps(logits: Tensor, input_ids: Tensor, response_mask: Tensor) -> Tensor:
    """Log-probability of every response token: shift, float32 log-softmax, pick, mask.

    `logits[:, t]` predicts `input_ids[:, t + 1]`, so the logits lose their last position and the
    ids their first.

    Args:
        logits: `(sequences, length, vocabulary)`, any float dtype.
        input_ids: `(sequences, length)`.
        response_mask: `(sequences, length)`, true on the tokens to score.

    Returns:
        `(sequences, length - 1)`, nats, float32 (float64 for float64 logits), zero where the mask
        is false.

    Raises:
        ValueError: If the shapes do not agree, or the mask scores a first token, which nothing
            predicts.
    """
    if logits.shape[:-1] != input_ids.shape or input_ids.shape != response_mask.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)}, input_ids {tuple(input_ids.shape)} and response_mask "
            f"{tuple(response_mask.shape)}: the first two dimensions must be equal. "
            "Pass all three for the same padded batch."
        )
    if bool(response_mask[:, 0].any()):
        raise ValueError(
            "response_mask scores position 0: no logits predict the first token. "
            "Put at least one prompt (or BOS) token before the response."
        )
    log_probs = upcast(logits[:, :-1]).log_softmax(dim=-1)
    targets = input_ids[:, 1:]
    picked = log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return picked.masked_fill(~response_mask[:, 1:].bool(), 0.0)


def sequence_logps(logits: Tensor, input_ids: Tensor, response_mask: Tensor) -> Tensor:
    """Log-probability of every response, `log pi(y|x)`: summed over tokens, never averaged.

    Args:
        logits: `(sequences, length, vocabulary)`.
        input_ids: `(sequences, length)`.
        response_mask: `(sequences, length)`, true on the tokens to score.

    Returns:
        `(sequences,)`, nats, float32.

    Raises:
        ValueError: As `token_logps`.

    Source:
        Rafailov et al. 2023, Eq. 7, whose `log pi(y|x)` is that of the whole response.
    """
    return token_logps(logits, input_ids, response_mask).sum(dim=-1)


def sum_dtype(tensor: Tensor) -> torch.dtype:
    """Dtype for log-softmax and sums over a tensor: float32, or float64 for a float64 tensor."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def upcast(tensor: Tensor) -> Tensor:
    """The tensor, converted to its `sum_dtype`."""
    return tensor.to(sum_dtype(tensor))
