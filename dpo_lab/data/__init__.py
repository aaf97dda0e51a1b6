"""What goes in: preference pairs, tokens, batches."""

from dpo_lab.data.builtin import BUILTIN
from dpo_lab.data.preferences import (
    Pair,
    Preferences,
    load_preferences,
    load_train_and_held_out,
    preferences_from_rows,
    split_by_prompt,
)
from dpo_lab.data.tokenization import tokenize_pairs

__all__ = [
    "BUILTIN",
    "Pair",
    "Preferences",
    "load_preferences",
    "load_train_and_held_out",
    "preferences_from_rows",
    "split_by_prompt",
    "tokenize_pairs",
]
