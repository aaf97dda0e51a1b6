"""What a check of data found, as HTML: in a page, and in a widget."""

from __future__ import annotations

from dpo_lab.data.preflight.findings import SEVERITIES
from dpo_lab.training.preflight import PreFlight
from dpo_lab.ui.html.output import Fragment
from dpo_lab.ui.html.tables import render

_UNITS = ((86400, "days"), (3600, "hours"), (60, "minutes"))


def findings_html(found: PreFlight) -> Fragment:
    """Each finding with its count, examples, and what to do.

    Args:
        found: Result of the check.
    """
    html = render("preflight/findings.html.jinja", findings=found.data.findings)
    words = "\n".join(map(str, found.data.findings)) or "Nothing was found."
    return Fragment(html, words)


def tiles(found: PreFlight) -> list[tuple[str, str, str]]:
    """What is said first: a title, a value, a note each."""
    data, counted = found.data, found.data.counted()
    parts = [f"{count} {name}" for name, count in counted.items() if count and name != "serious"]
    left_out = data.rows - data.usable
    result = [
        ("Pairs that can be used", f"{data.usable:,}", f"{left_out:,} of {data.rows:,} rows not"),
        ("Trained on", f"{data.trained:,}", f"{data.held_out:,} held out"),
        ("Different prompts", f"{data.prompts:,}", _languages(found)),
        (f"Findings, {SEVERITIES[0]}", f"{counted['serious']}", ", ".join(parts) or "none other"),
    ]
    if cost := found.cost:
        note = f"{cost.steps:,} steps on this {cost.device}, {cost.memory_gb:.1f} GB"
        result.append(("Estimated time", duration(cost.seconds), note))
    return result


def _languages(found: PreFlight) -> str:
    scripts = found.data.scripts["prompt"]
    whole = max(1, sum(scripts.values()))
    return ", ".join(f"{name} {count / whole:.0%}" for name, count in [*scripts.items()][:3])


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for size, unit in _UNITS:
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
