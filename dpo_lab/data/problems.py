"""Row errors and the load report: one problem, all of them, what became of rows and columns."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

OnBadRows = Literal["raise", "skip"]
ON_BAD_ROWS: OnBadRows = "skip"
"""The default everywhere, so that a file that one command takes is taken by all: rows that cannot
be used are left out and said to be so, since a large data set nearly always has some."""
NAMED = 10
"""How many rows of a kind are named by number; all are counted."""


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

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in `environment.json`."""
        return {
            "row": self.row, "column": self.column, "reason": self.reason, "detail": self.detail
        }  # fmt: skip

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
            "Fix them, or skip bad rows (on_bad_rows='skip', --on-bad-rows skip)."
        )


class SkippedRows(UserWarning):
    """Rows were left out by a caller who did not say what to do with bad rows."""


@dataclass(frozen=True)
class Repeats:
    """Rows that say again what an earlier row said.

    Attributes:
        count: How many.
        rows: The first of them, by number.
    """

    count: int = 0
    rows: tuple[int, ...] = ()

    def with_row(self, row: int) -> Repeats:
        """The same and one more."""
        return Repeats(self.count + 1, (*self.rows, row)[:NAMED])


@dataclass(frozen=True)
class LoadReport:
    """What became of the rows of a source, `kept + skipped == rows`, and of their columns.

    Attributes:
        source: Name of the source and split.
        rows: Rows read.
        kept: Pairs made of them.
        skipped: How many were left out, by reason.
        problems: The first of them, with row numbers.
        unused_columns: Rows with a value in a column that nothing uses; 0 where it is empty.
        unused_fields: Rows with a value in a field of a message that nothing uses.
        duplicates: Rows that make a pair and repeat an earlier one whole.
        alike: Rows that make a pair and repeat an earlier one in all that is used, and differ in
            the rest.
    """

    source: str
    rows: int
    kept: int
    skipped: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[RowProblem, ...] = ()
    unused_columns: Mapping[str, int] = field(default_factory=dict)
    unused_fields: Mapping[str, int] = field(default_factory=dict)
    duplicates: Repeats = Repeats()
    alike: Repeats = Repeats()

    def __str__(self) -> str:
        """One line, with the numbers of the first rows."""
        parts = [f"{self.source}: {self.kept} pairs from {self.rows} rows"]
        if self.skipped:
            reasons = ", ".join(f"{n} {why}" for why, n in self.skipped.items())
            rows = [problem.row for problem in self.problems]
            parts[0] += f", skipped: {reasons} ({_listed(rows, sum(self.skipped.values()))})"
        if self.duplicates.count:
            parts.append(_counted(self.duplicates, "an earlier one whole"))
        if self.alike.count:
            parts.append(_counted(self.alike, "an earlier one except in what is unused"))
        if self.unused_columns:
            parts.append(f"unused: {_with_rows(self.unused_columns)}")
        if any(self.unused_columns.values()):
            parts.append("to use one, map it with --columns (columns=) or write it into the prompt")
        if self.unused_fields:
            parts.append(f"unused in messages: {_with_rows(self.unused_fields)}")
            parts.append("to use one, write it into content")
        return "; ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in `environment.json`."""
        return asdict(replace(self, problems=())) | {
            "problems": [problem.as_dict() for problem in self.problems]
        }


def _counted(repeats: Repeats, what: str) -> str:
    rows = _listed(repeats.rows, repeats.count)
    return (
        f"{repeats.count} {'rows repeat' if repeats.count > 1 else 'row repeats'} {what} ({rows})"
    )


def _listed(rows: Sequence[int], count: int) -> str:
    more = f" and {count - len(rows)} more" if count > len(rows) else ""
    return f"row{'s' * (count > 1)} {', '.join(map(str, rows))}{more}"


def _with_rows(counts: Mapping[str, int]) -> str:
    return ", ".join(
        f"{name or 'a column without a name'} ({_rows(count)})" for name, count in counts.items()
    )


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count > 1)}" if count else "empty"


def warn_of_skipped(skipped: Mapping[str, int], words: object) -> None:
    """Warn the caller's caller of rows that it did not ask to have left out."""
    if skipped:
        advice = "Say on_bad_rows='skip' if that is right, or 'raise' to stop there"
        warnings.warn(f"{words}. {advice}.", SkippedRows, stacklevel=3)


def check_bad_rows_options(on_bad_rows: str | None, max_problems: int) -> None:
    """Refuse a misspelt `on_bad_rows`, or a limit that would name no row.

    Raises:
        ValueError: If either is out of range.
    """
    if on_bad_rows is not None and on_bad_rows not in get_args(OnBadRows):
        raise ValueError(
            f"on_bad_rows={on_bad_rows!r}: must be 'raise' or 'skip'. "
            "'skip' leaves bad rows out and counts them."
        )
    if max_problems < 1:
        raise ValueError(
            f"max_problems={max_problems}: must be at least 1, or no bad row could be found by its "
            "number. Leave it out to have ten named."
        )
