"""The data sets that come with the lab, each with a ground-truth score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dpo_lab.data import places, reviews
from dpo_lab.data.assets import asset_path

RewardFn = Callable[[str, str], float]
"""Ground-truth score of a prompt's text and a response's text."""


@dataclass(frozen=True)
class BuiltinData:
    """A data set in `assets/data`, in the files `train.jsonl` and `test.jsonl`.

    Attributes:
        title: One line on what it is.
        score: Ground-truth score of `(prompt, response)`.
        facts: Columns that tell a person about the row, and are no part of the pair.
    """

    title: str
    score: RewardFn
    facts: tuple[str, ...] = ()


BUILTIN: dict[str, BuiltinData] = {
    "reviews": BuiltinData(
        "verdicts on films of one to three words; labels drawn from Bradley-Terry",
        reviews.score,
    ),
    "places": BuiltinData(
        "where is this city? right country against a wrong one or a denial",
        places.score,
        facts=("city", "country"),
    ),
}
"""Every built-in data set by its name."""


def builtin_path(name: str) -> Path:
    """Folder of a built-in data set's files."""
    return asset_path(f"data/{name}")
