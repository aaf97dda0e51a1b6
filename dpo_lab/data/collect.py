"""All rows of a source to pairs, with the report of what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dpo_lab.data.columns import ColumnUse
from dpo_lab.data.known_layouts import KnownLayout, find_layout, own_names
from dpo_lab.data.load_report import LoadReport
from dpo_lab.data.pairs import Pair
from dpo_lab.data.problems import BadRowsRule, RowProblem, UnusableRow
from dpo_lab.data.ranked import RankedPairs
from dpo_lab.data.readers import Row
from dpo_lab.data.repeats import find_repeats
from dpo_lab.data.rows import NO_SHARED_PROMPT, prompt_column, row_to_pair, with_messages
from dpo_lab.data.thumbs import one_sided


def collect_pairs(
    source: str,
    rows: Iterable[Row],
    columns: Mapping[str, str],
    rule: BadRowsRule,
    *,
    limit: int | None = None,
    ignored: Sequence[str] = (),
    keep_ties: bool = False,
    ranked_pairs: RankedPairs = "all",
) -> tuple[tuple[Pair, ...], LoadReport]:
    """Pairs of all rows that can be used.

    Args:
        source: What to call the source in messages.
        rows: The rows.
        columns: Names of prompt, chosen and rejected in the source.
        rule: What is done with rows that cannot be used.
        limit: Stop after so many pairs.
        ignored: Columns that are for people, and are not reported as unused.
        keep_ties: Whether pairs whose two scores are equal are kept.
        ranked_pairs: Which of several responses to a prompt are compared.

    Raises:
        BadRows: If any row cannot be used and the rule is `raise`.
        ValueError: If nothing is left, or a column that looks like the prompt would be left out.
    """
    columns, renames = own_names(columns)
    explicit: list[Pair] = []
    implicit: list[Pair] = []
    problems: list[RowProblem] = []
    use = ColumnUse(columns, ignored)
    count = ties = 0
    reader = _RowReader(columns, renames, use, ranked_pairs)
    for row in rows:
        count += 1
        for value, made in reader.read(row):
            if isinstance(made, RowProblem):
                problems.append(made)
            elif made.score_margin == 0 and not keep_ties:
                ties += 1
            else:
                (implicit if prompt_column(value, columns) is None else explicit).append(made)
        # Those without a prompt count only while no row has one: beside it they are left out.
        if limit is not None and len(explicit or implicit) >= limit:
            break
    if explicit:
        problems = _without_prompt(columns["prompt"], implicit, problems)
    else:
        use.check_prompt(source)
    skipped, named = rule.skip(source, count, problems)
    pairs = tuple(explicit or implicit)[:limit]
    if not pairs:
        raise _no_pair(source, count, named, ties)
    duplicates, alike = find_repeats(pairs, use.digests)
    report = LoadReport(
        source,
        count,
        len(pairs),
        skipped,
        named,
        unused_columns=dict(use.unused),
        unused_fields=dict(use.unread),
        duplicates=duplicates,
        alike=alike,
        ties=ties,
        layout=reader.layout.name if reader.layout else "",
    )
    return pairs, report


class _RowReader:
    """Pairs of rows, in the lab's own layout or in a known one, which the first row decides."""

    def __init__(
        self,
        columns: Mapping[str, str],
        renames: Mapping[str, str],
        use: ColumnUse,
        pairs: RankedPairs,
    ):
        self.columns, self.renames, self.use, self.pairs = columns, renames, use, pairs
        self.layout: KnownLayout | None = None
        self._decided = any(name != given for name, given in columns.items())

    def read(self, row: Row) -> Iterator[tuple[Any, Pair | RowProblem]]:
        """What a row says, and the pair that it makes or what is wrong; several if it is ranked."""
        if row.problem:
            yield row.value, row.problem
            return
        value = row.value
        if self.renames and isinstance(value, Mapping):
            value = {self.renames.get(name, name): cell for name, cell in value.items()}
        if not self._decided and isinstance(value, Mapping):
            self.layout, self._decided = find_layout(value), True
        try:
            values = self.layout.rows(value, self.pairs) if self.layout else [value]
        except UnusableRow as why:
            yield row.value, why.at(row.number)
            return
        for part, value in enumerate(values):
            value = with_messages(value, self.columns)
            use = None if part else self.use  # a row's columns count once
            made = _pair_or_problem(row.number, value, self.columns, use)
            if self.layout and self.layout.thumb:
                made = one_sided(made, value, self.layout.thumb[0])
            yield value, made if isinstance(made, RowProblem) else replace(made, part=part)


def _pair_or_problem(
    number: int, row: object, columns: Mapping[str, str], use: ColumnUse | None
) -> Pair | RowProblem:
    """The row's pair or what is wrong with it, and its columns counted."""
    made: Pair | RowProblem
    try:
        try:
            made = row_to_pair(number, row, columns)
        except UnusableRow as why:
            made = why.at(number)
        if use is not None:
            use.add(number, row, made)
    except RecursionError:
        made = RowProblem(number, None, "nested too deep")
    return made


def _no_pair(source: str, count: int, problems: Sequence[RowProblem], ties: int) -> ValueError:
    why = problems[0] if problems else f"{ties} ties, two equal scores each"
    found = f"none of its {count} rows can be used ({why})" if count else "it is empty"
    return ValueError(
        f"{source}: {found}. A data set needs at least one pair; fix its rows or add some."
    )


def _without_prompt(
    column: str, implicit: list[Pair], problems: list[RowProblem]
) -> list[RowProblem]:
    """Beside rows with a prompt, one without has lost it, however its two responses begin."""
    numbers = {pair.row for pair in implicit}
    numbers |= {problem.row for problem in problems if problem.reason == NO_SHARED_PROMPT}
    others = [problem for problem in problems if problem.row not in numbers]
    lost = [RowProblem(row, column, "missing, though other rows have it") for row in numbers]
    return others + lost
