"""Values as escaped HTML: in a template, in a table, as answers side by side."""

from __future__ import annotations

import html
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dpo_lab.training.records import SampleRecord

AS_IT_IS = "mathjax_ignore tex2jax_ignore"
"""Class of an element whose text no page takes for formulas between dollar signs."""


def escaped(value: object) -> str:
    """Any value as text that no page runs, and plotly sets no formula of."""
    return html.escape(str(value)).replace("$", "&#36;")


def number(value: float | None) -> str:
    """Three significant digits with a true minus; a dash for none and for what is not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) < 5e-5:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}".replace("-", "−")


def _as_markup(value: Any) -> Any:
    """What a template writes for a value; jinja's own escaping would leave dollar signs."""
    return value if hasattr(value, "__html__") else Markup(escaped(value))


_TEMPLATES = Environment(
    loader=PackageLoader("dpo_lab.ui", ""),
    autoescape=True,
    finalize=_as_markup,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_TEMPLATES.filters |= {"number": number}


def render(template: str, **values: Any) -> str:
    """A template filled with values, each escaped unless it is a `Fragment` or marked as safe.

    Args:
        template: Its path in `dpo_lab/ui`.
        values: By the names that it uses; one that it uses and that is missing is an error.
    """
    return _TEMPLATES.get_template(template).render(values).strip()


def table(
    titles: Sequence[str],
    rows: Iterable[Sequence[object]],
    numbers: Collection[str] = (),
    widths: Sequence[float] = (),
    kind: str = "",
) -> str:
    """A table as HTML: cells are escaped, fragments stand as they are.

    Args:
        titles: Of the columns; without any, the first cell of each row is its title.
        rows: Cells, as many in each row as there are titles.
        numbers: Titles of the columns that are set to the right.
        widths: Of the columns, in hundredths; alike where left out.
        kind: Classes of the table.
    """
    return render(
        "html/table.html.jinja",
        titles=titles,
        rows=rows,
        numbers=numbers,
        widths=widths,
        kind=kind,
    )


def samples_table(samples: Iterable[SampleRecord]) -> str:
    """An HTML table: prompt, reference's answer, policy's answer, and scores where there are any.

    Args:
        samples: A row each.
    """
    samples = list(samples)
    titles = ["Prompt", *(Markup(f"<i class='{who.lower()}'></i>{who}") for who in _MODELS)]
    rows = [[*map(_answer, (sample.prompt, *sample.shown))] for sample in samples]
    scores = [(sample.reference_score, sample.policy_score) for sample in samples]
    if any(score is not None for both in scores for score in both):
        titles.append("Score")
        for row, (before, after) in zip(rows, scores, strict=True):
            row.append(Markup(f"{number(before)} → <b>{number(after)}</b>"))
    return table(titles, rows, ("Score",), kind=_ANSWERS)


_MODELS = ("Reference", "Policy")
_ANSWERS = f"samples {AS_IT_IS}"


def _answer(text: str | None) -> str:
    if text is None:
        return "–"
    return text if text.strip() else Markup("<em>(empty)</em>")


def compared_answers(runs: Mapping[str, Sequence[SampleRecord]]) -> str:
    """An HTML table: prompt, reference's answer, and the answer of each run's policy.

    Args:
        runs: Samples by the run's label; a prompt that a run has not got stays empty there, and
            so does the reference where the runs' references differ.
    """
    rows = []
    for prompt in dict.fromkeys(sample.prompt for some in runs.values() for sample in some):
        found = [next((s for s in some if s.prompt == prompt), None) for some in runs.values()]
        answers = [sample.shown if sample else (None, None) for sample in found]
        references = {before for before, _ in answers if before is not None}
        reference = references.pop() if len(references) == 1 else None
        rows.append([*map(_answer, (prompt, reference, *(after for _, after in answers)))])
    return table(("Prompt", "Reference", *runs), rows, kind=_ANSWERS)
