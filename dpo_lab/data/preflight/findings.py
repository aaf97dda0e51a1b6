"""What a check of data finds: each finding with a count, examples, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["serious", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note")
EXAMPLES = 3
"""Rows that a finding shows."""
_LONGEST = 140
_UNLISTED = ("form/", "note/")


@dataclass(frozen=True)
class Example:
    """One row of a finding.

    Attributes:
        row: Its number in the source, from 1 (in `.jsonl` files, the line); 0 if it is no row.
        split: The split that it stands in.
        text: What it says there, shortened, on one line.
        beside: What it is compared with, or what is wrong with it.
    """

    row: int
    split: str
    text: str
    beside: str = ""

    @property
    def where(self) -> str:
        """Split and row, in words; nothing where it is no row."""
        return f"{self.split} row {self.row}".strip() if self.row else ""


@dataclass(frozen=True)
class Finding:
    """One thing found in the data.

    Attributes:
        name: Its kind, such as `near_prompts`.
        severity: `serious` (training on this is a mistake), `warning`, or `note`.
        title: What was found, as a short sentence without its count.
        count: How many rows.
        of: Out of how many.
        examples: The first rows, at most three.
        fix: What to do, with the switch that does it where there is one.
    """

    name: str
    severity: Severity
    title: str
    count: int
    of: int
    examples: tuple[Example, ...]
    fix: str

    @property
    def share(self) -> float:
        """Count as a share."""
        return self.count / self.of if self.of else 0.0

    def __str__(self) -> str:
        rows = ", ".join(one.where for one in self.examples if one.row)
        where = f" ({rows})" if rows else ""
        return f"{self.severity}: {self.title}: {self.count:,} of {self.of:,}{where}. {self.fix}"


@dataclass
class Tally:
    """Counts by name, each with its first examples.

    Attributes:
        counts: How many rows, by name.
        examples: The first of them, by name.
        rows: Numbers of all rows of a chunk, by name; not of forms and notes, and not merged.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Example]] = field(default_factory=dict)
    rows: dict[str, list[int]] = field(default_factory=dict)

    def add(self, name: str, row: int, example: Callable[[], Example]) -> None:
        """Count a row; its example is made only if it is shown."""
        self.counts[name] += 1
        if not name.startswith(_UNLISTED):
            self.rows.setdefault(name, []).append(row)
        shown = self.examples.setdefault(name, [])
        if len(shown) < EXAMPLES:
            shown.append(example())

    def merge(self, later: Tally) -> None:
        """Count what was found in later rows."""
        self.counts.update(later.counts)
        for name, examples in later.examples.items():
            shown = self.examples.setdefault(name, [])
            shown += examples[: EXAMPLES - len(shown)]

    def shown(self, name: str) -> tuple[Example, ...]:
        """Examples of a name."""
        return tuple(self.examples.get(name, ()))


def shortened(text: str, most: int = _LONGEST) -> str:
    """A text on one line, its middle left out where it is long."""
    if len(text) > 4 * most:  # neither half of it is looked at whole
        text = f"{text[: 2 * most]} … {text[-2 * most :]}"
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    kept = (most - 3) // 2
    return f"{line[:kept].rstrip()} … {line[-kept:].lstrip()}"
