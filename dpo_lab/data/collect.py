"""All rows of a source to pairs, with the report of what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dpo_lab.data.columns import ColumnUse
from dpo_lab.data.problems import BadRows, LoadReport, OnBadRows, RowProblem
from dpo_lab.data.readers import NumberedRow
from dpo_lab.data.rows import NO_SHARED_PROMPT, Pair, prompt_column, row_to_pair, with_messages


def collect_pairs(
    source: str,
    rows: Iterable[NumberedRow],
    columns: Mapping[str, str],
    *,
    on_bad_rows: OnBadRows,
    max_problems: int,
    limit: int | None = None,
    ignored: Sequence[str] = (),
) -> tuple[tuple[Pair, ...], LoadReport]:
    """Pairs of all rows that can be used.

    Args:
        source: What to call the source in messages.
        rows: Row numbers and rows.
        columns: Names of prompt, chosen and rejected in the source.
        on_bad_rows: `raise` or `skip`.
        max_problems: How many bad rows are named.
        limit: Stop after so many pairs.
        ignored: Columns that are for people, and are not reported as unused.

    Raises:
        BadRows: With `on_bad_rows="raise"`, if any row cannot be used.
        ValueError: If nothing is left, or a column that looks like the prompt would be left out.
    """
    explicit: list[Pair] = []
    implicit: list[Pair] = []
    problems: list[RowProblem] = []
    use = ColumnUse(columns, ignored)
    count = 0
    for number, row in rows:
        count += 1
        row = with_messages(number, row, columns)
        made = _made_of(number, row, columns, use)
        if isinstance(made, RowProblem):
            problems.append(made)
        else:
            (implicit if prompt_column(row, columns) is None else explicit).append(made)
        # Those without a prompt count only while no row has one: beside it they are left out.
        if limit is not None and len(explicit or implicit) == limit:
            break
    if not explicit:
        use.check_prompt(source)
    if explicit:
        problems = _without_prompt(columns["prompt"], implicit, problems)
    pairs = tuple(explicit or implicit)
    if problems and on_bad_rows == "raise":
        raise BadRows(source, count, len(problems), problems[:max_problems])
    if not pairs:
        found = f"none of its {count} rows can be used ({problems[0]})" if count else "it is empty"
        raise ValueError(
            f"{source}: {found}. A data set needs at least one pair; fix its rows or add some."
        )
    repeated = use.repeated[bool(explicit)]
    report = LoadReport(
        source,
        count,
        len(pairs),
        skipped=dict(Counter(problem.reason for problem in problems)),
        problems=tuple(problems[:max_problems]),
        unused_columns=dict(use.unused),
        unused_fields=dict(use.unread),
        duplicates=repeated.duplicates,
        alike=repeated.alike,
    )
    return pairs, report


def _made_of(
    number: int, row: Any, columns: Mapping[str, str], use: ColumnUse
) -> Pair | RowProblem:
    """The row's pair or what is wrong with it, and its columns counted."""
    made: Pair | RowProblem
    try:
        try:
            made = row_to_pair(number, row, columns)
        except RowProblem as problem:
            made = problem
        use.add(number, row, made)
    except RecursionError:
        made = RowProblem(number, None, "nested too deep")
    return made


def _without_prompt(
    column: str, implicit: list[Pair], problems: list[RowProblem]
) -> list[RowProblem]:
    """Beside rows with a prompt, one without has lost it, however its two answers begin."""
    numbers = {pair.row for pair in implicit}
    numbers |= {problem.row for problem in problems if problem.reason == NO_SHARED_PROMPT}
    others = [problem for problem in problems if problem.row not in numbers]
    lost = [RowProblem(row, column, "missing, though other rows have it") for row in numbers]
    return sorted([*others, *lost], key=lambda problem: problem.row)
