"""Scores of two responses, in the columns of a row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dpo_lab.data.problems import UnusableRow

SCORES = ("score_chosen", "score_rejected")
"""The columns of a pair's scores: higher is better."""


def score_margin(row: Mapping[str, Any], columns: Mapping[str, str]) -> float | None:
    """Score of chosen minus that of rejected; None where the row lacks one.

    Args:
        row: The row.
        columns: Names in the row of `score_chosen` and `score_rejected`, where they differ.

    Raises:
        UnusableRow: If a score is no finite number, or the rejected response has the higher one.
    """
    names = [columns.get(name, name) for name in SCORES]
    chosen, rejected = (as_score(name, row.get(name)) for name in names)
    if chosen is None or rejected is None:
        return None
    if chosen < rejected:
        raise UnusableRow(
            names[1],
            "rejected has the higher score",
            f"{rejected:g} against {chosen:g}; if lower is better in this data, leave the scores "
            "out",
        )
    return chosen - rejected


def as_score(column: str, value: Any) -> float | None:
    """A cell as a number, also one that is written as text; None where it is empty.

    Raises:
        UnusableRow: If it is neither.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UnusableRow(column, "wrong type", f"{value!r:.40} is no score") from None
    if math.isnan(number):
        return None
    if math.isinf(number):
        raise UnusableRow(column, "wrong type", f"{value!r} is no finite score")
    return number
