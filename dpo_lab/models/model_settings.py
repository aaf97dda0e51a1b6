"""Names of devices and precisions, and default answer lengths; importable without torch."""

from __future__ import annotations

from typing import Literal

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16"]
Bits = Literal["4bit", "8bit"]
DType = Literal["float32", "bfloat16", "float16"]
Answers = Literal["padded", "of one length", "without cache"]
Strategy = Literal["ddp", "fsdp"]
"""What several processes divide: only the pairs of a step, or the weights as well."""

NEW_TOKENS = {"micro": 48}
OTHER_NEW_TOKENS = 192
"""Default limit on the tokens of an answer, chosen so that most answers end within it: of 72
answers of `smollm2`, 7 ended within 48 tokens, 47 within 192, 49 within 256; 20 were longer than
512 (`benchmarks/answer_lengths.py`)."""


def new_tokens(model: str) -> int:
    """Default limit on the tokens of an answer, for a model by name."""
    return NEW_TOKENS.get(model, OTHER_NEW_TOKENS)
