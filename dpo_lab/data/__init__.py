"""What goes in: preference pairs, tokens, batches."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_PLACES = {
    "BUILTIN": "builtin",
    "Pair": "preferences",
    "Preferences": "preferences",
    "load_preferences": "preferences",
    "load_train_and_held_out": "preferences",
    "preferences_from_rows": "preferences",
    "split_by_prompt": "preferences",
    "tokenize_pairs": "tokenization",
}
"""Module of each name: it is imported when the name is asked for."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
