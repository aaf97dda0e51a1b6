"""What became of the rows and columns of a source, in numbers and in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dpo_lab.data.problems import RowProblem
from dpo_lab.data.repeats import Repeats


@dataclass(frozen=True)
class LoadReport:
    """What became of the rows of a source and of their columns.

    Of rows that make one pair each, `kept + skipped + ties == rows`.

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
        ties: Pairs left out because their two scores are equal.
        what: What was made of the rows.
        layout: The public layout that the columns were recognised as, if any.
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
    ties: int = 0
    what: str = "pairs"
    layout: str = ""

    def __str__(self) -> str:
        """One line, with the numbers of the first rows."""
        parts = [f"{self.source}: {self.kept} {self.what} from {self.rows} rows"]
        if self.skipped:
            reasons = ", ".join(f"{n} {why}" for why, n in self.skipped.items())
            rows = [problem.row for problem in self.problems]
            parts[0] += f", skipped: {reasons} ({_listed(rows, sum(self.skipped.values()))})"
        if self.layout:
            parts.append(f"read as {self.layout}")
        if self.ties:
            verb = "ties" if self.ties > 1 else "tie"
            parts.append(
                f"{self.ties} {verb} left out, whose two scores are equal (tie_weight keeps them)"
            )
        if self.duplicates.count:
            parts.append(_repeat(self.duplicates, "an earlier one whole"))
        if self.alike.count:
            parts.append(_repeat(self.alike, "an earlier one except in what is unused"))
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
        return asdict(self)


def _repeat(repeats: Repeats, what: str) -> str:
    verb = "rows repeat" if repeats.count > 1 else "row repeats"
    return f"{repeats.count} {verb} {what} ({_listed(repeats.rows, repeats.count)})"


def _listed(rows: Sequence[int], count: int) -> str:
    more = f" and {count - len(rows)} more" if count > len(rows) else ""
    return f"row{'s' * (count > 1)} {', '.join(map(str, rows))}{more}"


def _with_rows(counts: Mapping[str, int]) -> str:
    return ", ".join(
        f"{name or 'a column without a name'} ({_rows(count)})" for name, count in counts.items()
    )


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count > 1)}" if count else "empty"
