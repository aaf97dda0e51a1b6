"""What is chosen of a model by name or word, read where torch is not needed yet."""

from __future__ import annotations

from typing import Literal

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16"]
Answers = Literal["padded", "of one length", "without cache"]

NEW_TOKENS = {"micro": 48}
OTHER_NEW_TOKENS = 192
"""Most tokens of an answer by default. Most answers must end within it: of 72 of `smollm2` 7 ended
within 48 tokens, 47 within 192 and 49 within 256; 20 had not after 512
(`benchmarks/answer_lengths.py`)."""


def new_tokens(model: str) -> int:
    """Most tokens of an answer by default, of a model by its name."""
    return NEW_TOKENS.get(model, OTHER_NEW_TOKENS)
