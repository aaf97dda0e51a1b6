"""What is wrong with rows, and how it is told: one problem, all of them, the report of a load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

OnBadRows = Literal["raise", "skip"]


class RowProblem(ValueError):
    """One row that cannot be used.

    Attributes:
        row: Its number, from 1 (in `.jsonl` files, the line).
        column: The column at fault, or none if it is the row as a whole.
        reason: What is wrong; rows are counted by it.
        detail: What is particular to this row.
    """

    def __init__(self, row: int, column: str | None, reason: str, detail: str = ""):
        super().__init__(row, column, reason, detail)
        self.row, self.column, self.reason, self.detail = row, column, reason, detail

    def at(self, row: int) -> RowProblem:
        """The same problem in another row, for files that are numbered through."""
        return RowProblem(row, self.column, self.reason, self.detail)

    def __str__(self) -> str:
        column = f", {self.column!r}" if self.column else ""
        detail = f" ({self.detail})" if self.detail else ""
        return f"row {self.row}{column}: {self.reason}{detail}"


class BadRows(ValueError):
    """Rows of a data set that cannot be used, each with its number, column and reason.

    Attributes:
        source: Name of the source.
        rows: Rows read.
        bad: How many of them cannot be used.
        problems: The first of these.
    """

    def __init__(self, source: str, rows: int, bad: int, problems: Sequence[RowProblem]):
        super().__init__(source, rows, bad, problems)
        self.source, self.rows, self.bad, self.problems = source, rows, bad, tuple(problems)

    def __str__(self) -> str:
        listed = "; ".join(map(str, self.problems))
        unlisted = self.bad - len(self.problems)
        more = f"; and {unlisted} more" if unlisted else ""
        return (
            f"{self.source}: {self.bad} of {self.rows} rows cannot be used: {listed}{more}. "
            "Mend them, or skip bad rows (on_bad_rows='skip')."
        )


@dataclass(frozen=True)
class LoadReport:
    """What became of the rows of a source: `kept + skipped == rows`.

    Attributes:
        source: Name of the source and split.
        rows: Rows read.
        kept: Pairs made of them.
        skipped: How many were left out, by reason.
        problems: The first of them, with row numbers.
    """

    source: str
    rows: int
    kept: int
    skipped: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[RowProblem, ...] = ()

    def __str__(self) -> str:
        text = f"{self.source}: {self.kept} pairs from {self.rows} rows"
        if self.skipped:
            text += ", skipped: " + ", ".join(f"{n} {why}" for why, n in self.skipped.items())
        return text


def check_bad_rows_options(on_bad_rows: str, max_problems: int) -> None:
    """Refuse a misspelt `on_bad_rows`, or a limit that would name no row.

    Raises:
        ValueError: If either is out of range.
    """
    if on_bad_rows not in get_args(OnBadRows):
        raise ValueError(
            f"on_bad_rows={on_bad_rows!r}: must be 'raise' or 'skip'. "
            "'skip' leaves bad rows out and counts them."
        )
    if max_problems < 1:
        raise ValueError(
            f"max_problems={max_problems}: must be at least 1, or no bad row could be found by its "
            "number. Leave it out to have ten named."
        )
