"""What is wrong with a row, and what is done with rows that cannot be used."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

OnBadRows = Literal["raise", "skip"]
ON_BAD_ROWS: OnBadRows = "skip"
"""The default everywhere, so that a file that one command takes is taken by all: rows that cannot
be used are left out and reported, since a large data set nearly always has some."""
NAMED = 10
"""How many rows of a kind are named by number; all are counted."""
MALFORMED_JSON = "truncated or malformed JSON"


class UnusableRow(ValueError):
    """Raised by code that looks at one row; whoever goes through the rows adds its number.

    The column, the reason and the detail are those of `RowProblem`.
    """

    def __init__(self, column: str | None, reason: str, detail: str = ""):
        super().__init__(column, reason, detail)

    def at(self, row: int) -> RowProblem:
        """The same with the number of the row."""
        return RowProblem(row, *self.args)


@dataclass(frozen=True)
class RowProblem:
    """One row that cannot be used, and why.

    Attributes:
        row: Its number, from 1 (in `.jsonl` files, the line).
        column: The column at fault, or none if it is the row as a whole.
        reason: What is wrong; rows are counted by it.
        detail: What is particular to this row.
    """

    row: int
    column: str | None
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        column = f", {self.column!r}" if self.column else ""
        detail = f" ({self.detail})" if self.detail else ""
        return f"row {self.row}{column}: {self.reason}{detail}"


def in_order(problems: Iterable[RowProblem]) -> tuple[RowProblem, ...]:
    """Problems by the number of their row."""
    return tuple(sorted(problems, key=lambda problem: problem.row))


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
    """Rows were left out for a caller who did not say what to do with bad rows."""


@dataclass(frozen=True)
class BadRowsRule:
    """What is done with rows that cannot be used.

    Attributes:
        on_bad_rows: `skip` leaves them out and counts them; `raise` stops. Not given, they are
            skipped with a warning.
        max_problems: How many of them are named.

    Raises:
        ValueError: If either is out of range.
    """

    on_bad_rows: OnBadRows | None = None
    max_problems: int = NAMED

    def __post_init__(self) -> None:
        if self.on_bad_rows is not None and self.on_bad_rows not in get_args(OnBadRows):
            raise ValueError(
                f"on_bad_rows={self.on_bad_rows!r}: must be 'raise' or 'skip'. "
                "'skip' leaves bad rows out and counts them."
            )
        if self.max_problems < 1:
            raise ValueError(
                f"max_problems={self.max_problems}: must be at least 1, or no bad row could be "
                "found by its number. Leave it out to have ten named."
            )

    def skip(
        self, source: str, rows: int, problems: Iterable[RowProblem]
    ) -> tuple[dict[str, int], tuple[RowProblem, ...]]:
        """How many rows are left out, by reason, and the first of them.

        Args:
            source: Name of the source.
            rows: Rows read.
            problems: What is wrong with those that cannot be used.

        Raises:
            BadRows: If there are any and the rule is `raise`.
        """
        problems = in_order(problems)
        named = problems[: self.max_problems]
        if problems and (self.on_bad_rows or ON_BAD_ROWS) == "raise":
            raise BadRows(source, rows, len(problems), named)
        return dict(Counter(problem.reason for problem in problems)), named

    def warn(self, skipped: Mapping[str, int], words: object) -> None:
        """Warn the caller's caller of rows that it did not ask to have left out."""
        if skipped and self.on_bad_rows is None:
            advice = "Say on_bad_rows='skip' if that is right, or 'raise' to stop there"
            warnings.warn(f"{words}. {advice}.", SkippedRows, stacklevel=3)
