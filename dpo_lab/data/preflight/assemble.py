"""From counts and columns to findings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from dpo_lab.data.preflight.column_files import ColumnFiles
from dpo_lab.data.preflight.division import Division, prompt_of
from dpo_lab.data.preflight.findings import (
    EXAMPLES,
    SEVERITIES,
    Example,
    Finding,
    Severity,
    Tally,
    shortened,
)
from dpo_lab.data.preflight.kinds import (
    KINDS,
    NOTES,
    OTHER_FIX,
    OTHER_RULE_FIX,
    RULE_FIXES,
    SKIPPED_FIXES,
    UNUSABLE_FIXES,
    Kind,
    name_of,
)
from dpo_lab.data.preflight.lengths import Lengths
from dpo_lab.data.preflight.row_list import RowList
from dpo_lab.data.preflight.shortcuts import NOTABLE, SERIOUS, RuleResult

_ENOUGH = 0.99
"""Share of the pairs that a proposed --max-length cuts nothing of."""


@dataclass
class Assembly:
    """Findings as they are put together.

    Attributes:
        columns: Of all pairs.
        splits: Names of the splits, by their number in the columns.
        lengths: Lengths in tokens.
        max_length: Most tokens of a pair.
        rows: Rows read.
        listed: Lists every row of a finding.
        findings: So far.
    """

    columns: ColumnFiles
    splits: tuple[str, ...]
    lengths: Mapping[str, Lengths]
    max_length: int
    rows: int
    listed: RowList
    findings: list[Finding] = field(default_factory=list)

    def add(
        self,
        name: str,
        kind: Kind,
        count: int,
        of: int,
        examples: tuple[Example, ...],
        severity: Severity | None = None,
        **words: str,
    ) -> None:
        """Add a finding, if there is any row of it."""
        if not count:
            return
        words["length"] = self._longer_limit()
        fix, title = _filled(kind.fix, words), _filled(kind.title, words)
        severity = severity or kind.severity_at(count / of if of else 0)
        self.findings.append(Finding(name, severity, title, count, of, examples, fix))

    def note(self, name: str, rows: np.ndarray) -> None:
        """List all rows of a finding."""
        for row in map(int, rows):
            (number,), (split,) = (self.columns.read(one, row, row + 1) for one in ("row", "split"))
            self.listed.add(name, self.splits[int(split)], int(number))

    def of_rows(
        self, skipped: Tally, unused: Mapping[str, int], overlooked: Mapping[str, int]
    ) -> None:
        """Rows that make no pair, and columns that nothing uses."""
        for reason, count in skipped.counts.most_common():
            fix = SKIPPED_FIXES.get(reason, OTHER_FIX)
            kind = Kind("warning", f"Rows skipped: {reason}", fix, 0.05)
            self.add("skipped", kind, count, self.rows, skipped.shown(reason))
        for column, row in overlooked.items():
            example = Example(row, self.splits[0], f"column {column!r}")
            self.add(
                "overlooked_prompt",
                KINDS["overlooked_prompt"],
                self.rows,
                self.rows,
                (example,),
                column=column,
            )
        filled = {name: count for name, count in unused.items() if count}
        if filled:
            examples = tuple(
                Example(0, "", f"column {name!r}", f"filled in {count:,} rows")
                for name, count in sorted(filled.items(), key=lambda one: -one[1])[:EXAMPLES]
            )
            most = max(filled.values())
            self.add("unused_column", KINDS["unused_column"], most, self.rows, examples)

    def of_pairs(self, tally: Tally, pairs: int) -> None:
        """What was seen of single pairs."""
        for name, count in tally.counts.most_common():
            group, _, rest = name.partition("/")
            shown = tally.shown(name)
            if group == "unusable":
                kind = Kind(
                    "warning",
                    f"Pairs that cannot be trained on: {rest}",
                    UNUSABLE_FIXES.get(rest, OTHER_FIX),
                    0.01,
                )
                self.add(name_of(rest), kind, count, pairs, shown)
            elif group == "note":
                kind = NOTES.get(rest, Kind("note", rest, "Nothing is needed."))
                self.add("note", kind, count, pairs, shown)
            elif group in KINDS:
                self.add(group, KINDS[group], count, pairs, shown)

    def of_division(self, division: Division, near: Mapping[int, tuple[int, float]]) -> None:
        """What stands on both sides of the split, or twice."""
        pairs, held = len(self.columns), int(division.held_out.sum())
        smoothing = f"{max(0.01, len(division.both_labels) / 2 / pairs):.2g}"
        for name, rows, of in (
            ("both_labels", division.both_labels, pairs),
            ("repeated", division.repeated, pairs),
            ("equal_prompts", division.equal, held),
        ):
            beside = _turned if name == "both_labels" else None
            shown = self._rows(rows, beside)
            self.add(name, KINDS[name], len(rows), of, shown, smoothing=smoothing)
            self.note(name, rows)
        known = sorted(near)[:EXAMPLES]
        examples = tuple(self._near(row, *near[row]) for row in known)
        prompts = int((division.first & division.held_out).sum())
        self.add("near_prompts", KINDS["near_prompts"], len(near), prompts, examples)
        self.note("near_prompts", np.array(sorted(near), dtype=np.int64))
        size, row = division.largest
        if size > 1 and size >= 0.05 * pairs:
            self.add("one_prompt", KINDS["one_prompt"], size, pairs, self._rows(np.array([row])))

    def of_rules(self, rules: tuple[RuleResult, ...]) -> None:
        """Rules that are right too often."""
        for rule in rules:
            low, high = rule.interval
            if low <= NOTABLE:
                continue
            title = (
                f"A rule that looks only at {rule.name} ({rule.rule}) picks the chosen response: "
                f"right on {rule.share:.1%} of pairs ({low:.1%} to {high:.1%})"
            )
            self.add(
                "shortcut",
                KINDS["shortcut"],
                rule.right,
                rule.pairs,
                rule.examples,
                "serious" if low > SERIOUS else "warning",
                rule=title,
                fix=RULE_FIXES.get(rule.name, OTHER_RULE_FIX),
            )

    def _longer_limit(self) -> str:
        """Which limit would cut less."""
        lengths = self.lengths["pair"]
        enough, longest = lengths.quantile(_ENOUGH), lengths.longest
        if enough <= self.max_length:
            return f"--max-length {longest} cuts none; or leave these rows out."
        return f"--max-length {enough} cuts at most 1 % of the pairs, {longest} none."

    def sorted(self) -> tuple[Finding, ...]:
        """All findings, the most serious first, then those of most rows."""
        key = {severity: place for place, severity in enumerate(SEVERITIES)}
        return tuple(sorted(self.findings, key=lambda one: (key[one.severity], -one.share)))

    def _rows(
        self, rows: np.ndarray, beside: Callable[[ColumnFiles, int], str] | None = None
    ) -> tuple[Example, ...]:
        return tuple(
            self._example(row, beside(self.columns, row) if beside else "")
            for row in map(int, rows[:EXAMPLES])
        )

    def _near(self, row: int, other: int, likeness: float) -> Example:
        like = self._example(other)
        return self._example(row, f"{likeness:.0%} as {like.split} row {like.row}: {like.text}")

    def _example(self, row: int, beside: str = "") -> Example:
        (number,), (split,) = (self.columns.read(name, row, row + 1) for name in ("row", "split"))
        text = shortened(prompt_of(self.columns.text(row)))
        return Example(int(number), self.splits[int(split)], text, beside)


def _filled(text: str, words: Mapping[str, str]) -> str:
    """A text with the words that it names in braces; other braces stay."""
    for name, word in words.items():
        text = text.replace(f"{{{name}}}", word)
    return text


def _turned(columns: ColumnFiles, row: int) -> str:
    """Rows of the same pair with the other label, among the first that are found."""
    (key,), (turned,) = (columns.read(name, row, row + 1) for name in ("pair", "turned"))
    found: list[int] = []
    for _, (keys, turns, rows) in columns.blocks("pair", "turned", "row"):
        found += map(int, rows[(keys == key) & (turns != turned)][:EXAMPLES])
        if len(found) >= EXAMPLES:
            break
    return f"the other way round in row {', '.join(map(str, found[:EXAMPLES]))}"


def script_counts(columns: ColumnFiles, names: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Texts by script, the most frequent first: prompt, chosen, rejected."""
    found = {}
    for side in ("prompt", "chosen", "rejected"):
        counts = np.zeros(len(names), np.int64)
        for _, (values,) in columns.blocks(f"{side}_script"):
            counts += np.bincount(values, minlength=len(names))
        order = np.argsort(-counts, kind="stable")
        found[side] = {names[place]: int(counts[place]) for place in order if counts[place]}
    return found
