"""The data sets that come with the lab, each with its ground-truth reward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dpo_lab.data import places, reviews
from dpo_lab.data.assets import asset_path

RewardFn = Callable[[str, str], float]
"""Ground-truth reward of a prompt's text and a response's text."""


@dataclass(frozen=True)
class BuiltinData:
    """A data set in `assets/data`, in the files `train.jsonl` and `test.jsonl`.

    Attributes:
        reward_fn: Ground-truth reward of `(prompt, response)`.
        facts: Columns that are about the row, for people, and no part of the pair.
    """

    reward_fn: RewardFn
    facts: tuple[str, ...] = ()


BUILTIN = {
    "reviews": BuiltinData(reviews.reward),
    "places": BuiltinData(places.reward, facts=("city", "country")),
}
"""Every built-in data set by its name."""


def builtin_path(name: str) -> Path:
    """Folder of a built-in data set's files."""
    return asset_path(f"data/{name}")
