"""What a policy forgets: the log-likelihood of neutral text before and after training."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dpo_lab.data.assets import asset_path
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.scoring import LogpScorer, score_sequences
from dpo_lab.training.outcome import Z95, MeanCI

MOST_UNKNOWN = 0.02
"""Above this share of tokens that a tokenizer does not know, a text is not text to its model."""


@dataclass(frozen=True)
class TextLogps:
    """Log-probabilities of passages under one model.

    Attributes:
        logps: `(passages,)`, sums over the tokens of each, nats.
        tokens: `(passages,)`, their numbers of tokens.
        tokenizer: `Encoder.fingerprint` of the model's tokenizer.
    """

    logps: Tensor
    tokens: Tensor
    tokenizer: str


@dataclass(frozen=True)
class TextChange:
    """How much likelier neutral text is under one model than under another.

    Attributes:
        a: Mean log-likelihood per token under A, nats.
        b: The same under B.
        change: a minus b, nats per token, with its interval over passages: below 0 A has lost.
        tokens: Tokens in all passages.
    """

    a: float
    b: float
    change: MeanCI
    tokens: int


def neutral_passages(file: Path | None = None) -> list[str]:
    """Passages of a text, which blank lines part; by default of the one that comes with the lab.

    Raises:
        ValueError: If there are fewer than two.
        OSError: If it cannot be read.
    """
    path = file or asset_path("data/neutral/passages.txt")
    parts = [" ".join(part.split()) for part in re.split(r"\n\s*\n", path.read_text("utf-8"))]
    passages = [part for part in parts if part]
    if len(passages) < 2:
        raise ValueError(
            f"{path}: holds {len(passages)} passages; an interval takes two or more. Part them by "
            "blank lines."
        )
    return passages


def text_logps(model: LanguageModel, passages: Sequence[str]) -> TextLogps:
    """Log-probability of each passage after its first token, BOS where there is one.

    Raises:
        ValueError: If a passage has fewer than two tokens, or the tokenizer does not know the text.
    """
    encoder, unknown = model.encoder, model.tokenizer.unk_token_id
    sequences = []
    for passage in passages:
        ids = tuple(model.tokenizer(passage, add_special_tokens=False).input_ids)
        whole = (*encoder.bos, *ids)
        if len(whole) < 2:
            raise ValueError(f"passage {passage[:40]!r}: is shorter than two tokens. Leave it out.")
        sequences.append((whole[:1], whole[1:]))
    every = [token for prompt, rest in sequences for token in (*prompt, *rest)]
    share = sum(token == unknown for token in every) / len(every)
    if share > MOST_UNKNOWN:
        raise ValueError(
            f"{model.name}: its tokenizer does not know {share:.0%} of the neutral text. Give a "
            "text in its words."
        )
    logps = score_sequences(LogpScorer.probed(model), sequences)
    tokens = torch.tensor([len(rest) for _, rest in sequences])
    return TextLogps(logps.double(), tokens, encoder.fingerprint)


def text_change(a: TextLogps, b: TextLogps) -> TextChange:
    """Log-likelihood of the same passages under models A and B.

    The change is a ratio, of the difference summed over passages to the number of tokens; its
    standard error is that of a ratio estimator, over passages.

    Raises:
        ValueError: If the two have different tokenizers, so that a token is not the same unit.

    Source:
        Cochran 1977, "Sampling Techniques", chapter 6 (ratio estimators).
    """
    if a.tokenizer != b.tokenizer or not torch.equal(a.tokens, b.tokens):
        raise ValueError(
            "neutral text: the two models have different tokenizers, so that nats per token cannot "
            "be compared. Compare a policy with its own reference."
        )
    tokens, n = a.tokens.double(), len(a.tokens)
    difference = a.logps - b.logps
    mean = (difference.sum() / tokens.sum()).item()
    around = (difference - mean * tokens).square().sum().item()
    error = math.sqrt(n / (n - 1) * around) / tokens.sum().item()
    total = tokens.sum().item()
    return TextChange(
        a=a.logps.sum().item() / total,
        b=b.logps.sum().item() / total,
        change=MeanCI(mean, mean - Z95 * error, mean + Z95 * error, n),
        tokens=int(total),
    )
