"""What became of the rows of a data set: used, held out, skipped and why, repeated, unused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpo_lab.data.preferences import TRAINED_ON
from dpo_lab.ui.html.tables import escaped

HELD_OUT = "held-out prompt"
"""What the prompts are where a run does not say it."""


def data_list(facts: Mapping[str, Any]) -> str:
    """Counts of a run's data, then what was left out or unused, with row numbers, as HTML.

    Args:
        facts: Of a run, as `data_facts` gives them and its `environment.json` keeps them; an older
            run's may lack any of them.
    """
    lines = [_counts(facts)] if facts.get("pairs") else []
    for report in _distinct(facts.get("load_reports") or ()):
        lines += _about(report)
    if not facts.get("load_reports"):
        lines += [escaped(line) for line in dict.fromkeys(facts.get("data") or ())]
    if facts.get("tokens"):
        lines.append(escaped(facts["tokens"]) + _listed(facts.get("token_problems") or (), 0))
    return f"<ul class='data'>{''.join(f'<li>{line}</li>' for line in lines)}</ul>" * bool(lines)


def data_fold(facts: Mapping[str, Any]) -> str:
    """The same under its first line, open where rows are not used."""
    not_used = sum(
        sum(report["skipped"].values()) for report in _distinct(facts.get("load_reports") or ())
    )
    head = f"Data: {_counts(facts)}"
    head += f", <b class='dpo-warning'>{_many(not_used, 'row')} not used</b>" * (not_used > 0)
    rest = data_list({**facts, "pairs": None})
    return f"<details{' open' * (not_used > 0)}><summary>{head}</summary>{rest}</details>"


def _distinct(reports: Sequence[Mapping]) -> list[Mapping]:
    """Each once: where a share of one source is held out, both sides have the report of it all."""
    return [report for i, report in enumerate(reports) if report not in reports[:i]]


def _counts(facts: Mapping[str, Any]) -> str:
    pairs, kind = facts["pairs"], facts.get("prompt_kind", HELD_OUT)
    words = f"<b>{_many(pairs['train'], 'pair')} to train on</b>"
    if pairs["held_out"]:
        words += f", {_many(pairs['held_out'], 'held-out pair')} to measure on"
    if pairs["prompts"]:
        words += f", {escaped(_many(pairs['prompts'], kind))} to answer"
    nothing = not pairs["held_out"] and not (pairs["prompts"] and kind == HELD_OUT)
    return words + ", nothing is held out" * nothing


def _about(report: Mapping[str, Any]) -> list[str]:
    source, rows, kept = escaped(report["source"]), report["rows"], report["kept"]
    lines = [f"{source}: {_many(kept, 'pair')} from {_many(rows, 'row')}"]
    skipped = sum(report["skipped"].values())
    if skipped:
        reasons = ", ".join(f"{n:,} {escaped(why)}" for why, n in report["skipped"].items())
        problems = report["problems"]
        more = skipped - report["skipped"].get(TRAINED_ON, 0) - len(problems)
        lines[0] += f", <b>{_many(skipped, 'row')} not used</b>: {reasons}"
        lines[0] += _listed(problems, more)
    repeats = (
        ("duplicates", "the same as an earlier row"),
        ("alike", "the same as an earlier row in all that is used"),
    )
    for name, words in repeats:
        found = report.get(name) or {"count": 0}
        if found["count"]:
            numbers = ", ".join(map(str, found["rows"]))
            more = found["count"] - len(found["rows"])
            numbers += f" and {more:,} more" * (more > 0)
            lines.append(f"{_many(found['count'], 'row')} {words}: {numbers}")
    for name, words in (("unused_columns", "columns"), ("unused_fields", "message fields")):
        if report.get(name):
            each = (
                f"<b>{escaped(column or '(no name)')}</b> ({_many(count, 'row')})"
                for column, count in report[name].items()
            )
            lines.append(f"{words} that nothing uses: {', '.join(each)}")
    return lines


def _listed(problems: Sequence[Mapping[str, Any]], more: int) -> str:
    """Problems by row number, one a line."""
    lines = []
    for problem in problems:
        column = f", {problem['column']!r}" if problem["column"] else ""
        detail = f" ({problem['detail']})" if problem["detail"] else ""
        lines.append(f"row {problem['row']}{column}: {problem['reason']}{detail}")
    lines += [f"and {more:,} more"] * (more > 0)
    return f"<ul>{''.join(f'<li>{escaped(line)}</li>' for line in lines)}</ul>" * bool(lines)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
