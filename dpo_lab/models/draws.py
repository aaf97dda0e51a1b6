"""How the next token of an answer is chosen: greedily, or with random numbers of its own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

Choose = Callable[[Tensor, int], Tensor]
"""`(logits, place)` to the ids of the next tokens: `(rows, vocabulary)`, `(rows,)`."""


def chooser(
    seed: int, numbers: Sequence[int], count: int, temperature: float, device: torch.device
) -> Choose:
    """How to choose the tokens of a batch of answers.

    Args:
        seed: Random seed.
        numbers: A number for each answer, which with the seed decides its random numbers.
        count: Most tokens of an answer.
        temperature: Of the softmax; 0 is greedy.
        device: Where the logits will be.
    """
    if temperature == 0:
        return lambda logits, place: logits.argmax(-1)
    dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
    uniforms = _uniforms(seed, numbers, count).to(device, dtype)
    return lambda logits, place: inverse_cdf(logits.float() / temperature, uniforms[:, place])


def reported(
    choose: Choose, numbers: Sequence[int], each_token: Callable[[int, int], None]
) -> Choose:
    """A way of choosing that reports every token as soon as it is chosen.

    Args:
        choose: The way.
        numbers: What to call each row by.
        each_token: Called with a row's number and its token.
    """

    def choose_and_report(logits: Tensor, place: int) -> Tensor:
        chosen = choose(logits, place)
        for number, token in zip(numbers, chosen.tolist(), strict=False):
            each_token(number, token)
        return chosen

    return choose_and_report


def inverse_cdf(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draws from the softmax of logits by inversion of its cumulative sum.

    Args:
        logits: `(rows, vocabulary)`.
        uniforms: `(rows,)`, in [0, 1), float64.

    Returns:
        `(rows,)`, token ids; a token of probability 0 is never drawn.
    """
    sums = logits.float().softmax(-1).to(uniforms.dtype).cumsum(-1)
    sought = (uniforms.unsqueeze(-1) * sums[:, -1:]).contiguous()
    return torch.searchsorted(sums, sought, right=True).squeeze(-1).clamp_max(logits.shape[-1] - 1)


class Chosen(LogitsProcessor):
    """Leaves only the chosen token of each row possible.

    Args:
        choose: From `chooser`.
        width: Length of the prompts.
        temperature: What to keep the log-probabilities at; none keeps none.

    Attributes:
        logps: Of the chosen tokens at each step, `(rows,)`, nats, in the distribution they were
            drawn from; 0 if greedily.
    """

    def __init__(self, choose: Choose, width: int, temperature: float | None = None):
        self.choose, self.width, self.temperature = choose, width, temperature
        self.logps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores of 0 for the chosen tokens, and of minus infinity for all others."""
        chosen = self.choose(scores, input_ids.shape[1] - self.width)
        if self.temperature is not None:
            logps = torch.zeros(len(scores), device=scores.device)
            if self.temperature:
                every = (scores.float() / self.temperature).log_softmax(-1)
                logps = every.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
            self.logps.append(logps)
        return torch.full_like(scores, -math.inf).scatter_(1, chosen.unsqueeze(-1), 0.0)


def _uniforms(seed: int, numbers: Sequence[int], count: int) -> Tensor:
    """Uniform random numbers in [0, 1), `(numbers, count)`, float64: a row for each number."""
    rows = []
    for number in numbers:
        digest = hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        rows.append(torch.rand(count, generator=generator, dtype=torch.float64))
    return torch.stack(rows)
