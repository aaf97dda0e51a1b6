"""Token log-probabilities from hidden states, without ever holding all logits in memory.

Gives the numbers of `objective/logprobs.py` at training time: from the hidden states that predict
response tokens, computing a tile or a chunk of logits at a time, forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from dpo_lab.kernels.grad_buffers import summed_into
from dpo_lab.objective.logprobs import sum_dtype, upcast

CHUNK_ELEMENTS = 1 << 24
"""Most logits that a head called in chunks holds at once: 16.8 million, 64 MiB in float32."""

TILE = 512, 8192
"""Tokens and vocabulary entries of the tile of logits that a linear head holds at once: 16 MiB."""


def linear_token_logps(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    tile: tuple[int, int] = TILE,
    in_place: bool = False,
) -> Tensor:
    """`log_softmax(head(hidden))[targets]` of a linear head, without holding all the logits.

    A tile of logits (some tokens by part of the vocabulary) is computed in float32, used and
    dropped; the backward pass computes it again. With `z = scale * (hidden @ weight.T + bias)`,
    capped to `softcap * tanh(z / softcap)` if the model has a soft cap, and `p = softmax(z)`, the
    gradient with respect to `z` is `g * (onehot(target) - p)`.

    Args:
        hidden: `(tokens, width)`, the states that predict `targets`.
        weight: `(vocabulary, width)`.
        targets: `(tokens,)`, token ids.
        bias: `(vocabulary,)`, if the head has one.
        scale: Factor on the logits (Cohere's `logit_scale`, one over Granite's `logits_scaling`).
        softcap: Bound of Gemma 2's `final_logit_softcapping`, if any.
        tile: Most tokens and most vocabulary entries in a tile.
        in_place: Add the weight's gradient to `weight.grad` as it is computed and return none to
            autograd; for a leaf that requires grad, within `adding_in_place`.

    Returns:
        `(tokens,)`, nats, float32 (float64 for float64 input).

    Raises:
        ValueError: If there is not one target per hidden state, or the tile or chunk is empty.

    Note:
        A weight or bias that requires no gradient gets none: under LoRA the frozen head costs one
        matrix product in the backward pass instead of two.
    """
    _check_lengths(hidden, targets)
    if min(tile) < 1:
        raise ValueError(f"tile={tile}: needs at least one logit. Leave it out for the default.")
    return _LinearTokenLogps.apply(hidden, weight, bias, targets, scale, softcap, tile, in_place)


def module_token_logps(
    hidden: Tensor,
    head: Callable[[Tensor], Tensor],
    targets: Tensor,
    *,
    vocabulary: int,
    chunk_tokens: int | None = None,
) -> Tensor:
    """The same for any head module, called chunk by chunk and recomputed in the backward pass.

    For heads that are more than one weight: with a LoRA adapter, a trainable copy, or further
    operations. The module itself is called, so nothing in it is skipped.

    Args:
        hidden: `(tokens, width)`.
        head: Maps `(n, width)` to `(n, vocabulary)` logits.
        targets: `(tokens,)`.
        vocabulary: Size of the head's output, which sets the chunk.
        chunk_tokens: Tokens in a chunk; by default as many as make `CHUNK_ELEMENTS` logits.

    Returns:
        `(tokens,)`, nats, float32.

    Raises:
        ValueError: As `linear_token_logps`.
    """
    _check_lengths(hidden, targets)
    chunk = _chunk_size(vocabulary, chunk_tokens)

    def one_chunk(states: Tensor, ids: Tensor) -> Tensor:
        return upcast(head(states)).log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)

    return torch.cat(
        [
            checkpoint(one_chunk, states, ids, use_reentrant=False)
            for states, ids in zip(hidden.split(chunk), targets.split(chunk), strict=True)
        ]
        or [hidden.new_zeros(0, dtype=torch.float32)]
    )


class _LinearTokenLogps(torch.autograd.Function):
    """`log_softmax(linear(hidden))[target]`, a tile at a time; the backward recomputes them."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, scale, softcap, size, in_place):
        out = torch.empty(len(targets), dtype=sum_dtype(hidden), device=hidden.device)
        totals = torch.empty_like(out)
        with torch.autocast(hidden.device.type, enabled=False):
            head = upcast(weight)
            for rows in _slices(len(targets), size[0]):
                states = upcast(hidden[rows])
                picked = largest = sums = None
                for tile in _slices(len(head), size[1]):
                    logits, _ = _logits(states, head, bias, scale, softcap, tile)
                    column, inside = _within(targets[rows], tile)
                    target = logits.gather(1, column).squeeze(1)
                    # The log-sum-exp reuses the logits' memory: nothing else of that size is held.
                    peak = logits.amax(dim=1).clamp_(min=torch.finfo(logits.dtype).min)
                    if largest is not None:
                        target = torch.where(inside, target, picked)
                        peak = torch.maximum(peak, largest)
                    part = logits.sub_(peak[:, None]).exp_().sum(dim=1)
                    if largest is not None:
                        part += sums.mul_((largest - peak).exp_())
                    picked, largest, sums = target, peak, part
                totals[rows] = sums.log_() + largest
                out[rows] = picked - totals[rows]
        ctx.save_for_backward(hidden, weight, bias, targets, totals)
        ctx.constants = scale, softcap, size, in_place
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        hidden, weight, bias, targets, totals = ctx.saved_tensors
        scale, softcap, size, in_place = ctx.constants
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        dtype = sum_dtype(hidden)
        in_place = in_place and needs_weight and weight.dtype == dtype
        if needs_weight:
            grad_weight, new = (
                summed_into(weight) if in_place else (torch.empty_like(weight, dtype=dtype), True)
            )
            if new and not len(targets):
                grad_weight.zero_()
        grad_hidden = torch.zeros_like(hidden, dtype=dtype) if needs_hidden else None
        grad_bias = torch.zeros_like(bias, dtype=dtype) if needs_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            head = upcast(weight)
            for rows in _slices(len(targets), size[0]):
                states, slopes = upcast(hidden[rows]), grad[rows, None]
                for tile in _slices(len(head), size[1]):
                    logits, slope = _logits(states, head, bias, scale, softcap, tile)
                    # d logp / d logits = onehot(target) - softmax(logits), in the logits' memory.
                    grad_logits = logits.sub_(totals[rows, None]).exp_().mul_(-slopes)
                    column, inside = _within(targets[rows], tile)
                    grad_logits.scatter_add_(1, column, slopes * inside[:, None])
                    if slope is not None:
                        grad_logits.mul_(slope)
                    if scale != 1.0:
                        grad_logits.mul_(scale)
                    if needs_hidden:
                        grad_hidden[rows].addmm_(grad_logits, head[tile])
                    if needs_weight:
                        keep = 0 if new and rows.start == 0 else 1
                        grad_weight[tile].addmm_(grad_logits.T, states, beta=keep)
                    if needs_bias:
                        grad_bias[tile] += grad_logits.sum(dim=0)
        return (
            grad_hidden.to(hidden.dtype) if needs_hidden else None,
            grad_weight.to(weight.dtype) if needs_weight and not in_place else None,
            grad_bias.to(bias.dtype) if needs_bias else None,
            *(None,) * 5,
        )


def head_logits(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """Logits of a linear head in float32, `(tokens, vocabulary)`; the caller keeps `tokens` small.

    Args:
        hidden: `(tokens, width)`.
        weight: `(vocabulary, width)`.
        bias: `(vocabulary,)` or none.
        scale: Factor on the logits.
        softcap: Bound of the soft cap, if any.

    Returns:
        `(tokens, vocabulary)`, float32 (float64 for float64 input).
    """
    with torch.autocast(hidden.device.type, enabled=False):
        whole = slice(0, len(weight))
        return _logits(upcast(hidden), upcast(weight), bias, scale, softcap, whole)[0]


def _logits(states, head, bias, scale, softcap, tile):
    """Float32 logits of a tile, and the derivative of the soft cap if there is one."""
    logits = states @ head[tile].T
    if bias is not None:
        logits += bias[tile]
    if scale != 1.0:
        logits *= scale
    if softcap is None:
        return logits, None
    squashed = torch.tanh(logits / softcap)
    return softcap * squashed, 1.0 - squashed.square()


def _within(targets: Tensor, tile: slice) -> tuple[Tensor, Tensor]:
    """Columns of targets in a tile of the vocabulary, `(tokens, 1)`, and whether they lie in it."""
    column = targets - tile.start
    last = tile.stop - tile.start - 1
    return column.clamp(0, last)[:, None], (column >= 0) & (column <= last)


def _check_lengths(hidden: Tensor, targets: Tensor) -> None:
    if len(hidden) != len(targets):
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and targets {tuple(targets.shape)}: each hidden state "
            "predicts one target. Pass the state before each scored token."
        )


def _chunk_size(vocabulary: int, tokens: int | None) -> int:
    if tokens is not None and tokens < 1:
        raise ValueError(
            f"chunk_tokens={tokens}: must be at least one token. Leave it out for the default."
        )
    return tokens or max(1, CHUNK_ELEMENTS // vocabulary)


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]
