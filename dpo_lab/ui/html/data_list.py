"""What became of the rows of a data set: used, held out, skipped and why, repeated, unused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_lab.data.held_out import TRAINED_ON
from dpo_lab.ui.html.tables import render

HELD_OUT = "held-out prompt"
"""What the prompts are where a run does not say it."""
SINGLE = "single response"
"""What a run trains on that does not train on pairs, as its report says."""

_REPEATS = {
    "duplicates": "the same as an earlier row",
    "alike": "the same as an earlier row in all that is used",
}
_UNUSED = {"unused_columns": "columns", "unused_fields": "message fields"}


def data_list(facts: Mapping[str, Any]) -> str:
    """Counts of a run's data, then what was left out or unused, with row numbers, as HTML.

    Args:
        facts: Of a run, as `data_facts` gives them and its `environment.json` keeps them; an older
            run's may lack any of them.
    """
    return _rendered(facts, folded=False)


def data_fold(facts: Mapping[str, Any]) -> str:
    """The same under its first line, open where rows are not used."""
    return _rendered(facts, folded=True)


def _rendered(facts: Mapping[str, Any], folded: bool) -> str:
    reports = facts.get("load_reports") or ()
    # Where a share of one source is held out, both sides have the report of it all.
    reports = [report for i, report in enumerate(reports) if report not in reports[:i]]
    pairs, kind = facts.get("pairs") or {}, facts.get("prompt_kind", HELD_OUT)
    held_out = pairs.get("held_out") or (pairs.get("prompts") and kind == HELD_OUT)
    singles = any(str(report.get("what")).startswith(SINGLE) for report in reports)
    return render(
        "html/data_list.html.jinja",
        facts=facts,
        folded=folded,
        reports=reports,
        not_used=sum(sum(report["skipped"].values()) for report in reports),
        prompt_kind=kind,
        one=SINGLE if singles else "pair",
        nothing_held_out=not held_out,
        trained_on=TRAINED_ON,
        repeats=_REPEATS.items(),
        unused=_UNUSED.items(),
    )
