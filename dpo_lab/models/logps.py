"""Log-probabilities of the responses of preference pairs, from a model and pairs in any form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dpo_lab.data.pairs import PromptFormat, ScoreTurns
from dpo_lab.data.preferences import Preferences, as_preferences
from dpo_lab.data.problems import OnBadRows
from dpo_lab.data.tokenized_pairs import TokenizedPairs, tokenize_pairs
from dpo_lab.models.dropout import evaluating
from dpo_lab.models.handed_over import AnyModel, as_language_model
from dpo_lab.models.model_settings import Precision
from dpo_lab.models.scoring import LogpScorer, score_sequences


@dataclass(frozen=True, eq=False)
class PairsLogps:
    """Log-probabilities of preference pairs under a model.

    Attributes:
        chosen: `(pairs,)`, `log pi(y_w|x)`, nats, summed over the response's tokens, including its
            end token.
        rejected: `(pairs,)`, `log pi(y_l|x)`, likewise.
        tokens: The pairs as token ids, with row numbers and what was cut or dropped.
        pairs: The pairs as text, with the report of what was read and skipped.
    """

    chosen: Tensor
    rejected: Tensor
    tokens: TokenizedPairs
    pairs: Preferences


def logps(
    model: AnyModel,
    pairs: str | Path | Preferences | Iterable[Mapping[str, Any]],
    *,
    max_length: int = 512,
    prompt_format: PromptFormat = "auto",
    score_turns: ScoreTurns = "all",
    on_bad_rows: OnBadRows | None = None,
    precision: Precision = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> PairsLogps:
    """`log pi(y|x)` of the chosen and rejected responses of pairs, without gradient.

    Args:
        model: A name, a folder, a hub id, a loaded model, or `(model, tokenizer)`.
        pairs: A name, a file, a folder or hub id; rows; a `datasets.Dataset`; or `Preferences`.
        max_length: Most tokens of prompt and response together.
        prompt_format: How text prompts are given to the model: `auto`, `chat` or `plain`.
        score_turns: Which of the assistant's messages after the prompt are scored.
        on_bad_rows: As in `load_preferences`.
        precision: Of matrix products in the model; sums and log-softmax are always float32.
        progress: Called with `(done, total)` responses.

    Raises:
        BadRows: With `on_bad_rows="raise"`, if any row cannot be used.
        FileNotFoundError: If the model or the pairs are not found.
        ValueError: If no usable pair remains, or they do not fit the model.
    """
    language_model = as_language_model(model)
    preferences = as_preferences(pairs, on_bad_rows=on_bad_rows)
    tokens = tokenize_pairs(
        preferences,
        language_model.tokenizer,
        max_length=max_length,
        prompt_format=prompt_format,
        score_turns=score_turns,
        vocabulary=language_model.encoder.vocabulary,
        on_bad_rows=on_bad_rows,
    )
    with evaluating(language_model.model):
        scorer = LogpScorer.probed(language_model, precision)
        values = score_sequences(scorer, tokens.sequences(), progress=progress)
    chosen, rejected = values.split(len(tokens))
    return PairsLogps(chosen, rejected, tokens, preferences)
