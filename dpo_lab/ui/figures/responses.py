"""Table and figure of answer length, repetition, endings and diversity, before and after."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from dpo_lab.analysis.response_stats import AnswerForm
from dpo_lab.training.outcome import MeanCI
from dpo_lab.ui.figures.style import POLICY, REFERENCE, blank
from dpo_lab.ui.html.output import Fragment
from dpo_lab.ui.html.tables import escaped, number, table

_GAP = 0.07
_NOTHING = MeanCI(math.nan, math.nan, math.nan, 0)
"""Plotly draws no point for it."""


def _rows(form: AnswerForm) -> dict[str, tuple[MeanCI | None, str]]:
    """Name of each statistic, to its value (if there is one) and number format."""
    grams = "token" if form.n == 1 else f"{form.n}-gram"
    return {
        "length (tokens)": (form.length, ".3g"),
        f"repeated {grams}s": (form.repetition, ".1%"),
        "ended by the model": (form.ended, ".1%"),
        f"distinct {grams}s": (form.distinct, ".1%"),
    }


def form_table(forms: dict[str, AnswerForm]) -> Fragment:
    """The statistics with their 95 % intervals.

    Args:
        forms: A name, such as `before`, to its statistics.
    """
    names, columns = list(forms), [_rows(form) for form in forms.values()]
    rows = [(what, *(_interval(*column[what]) for column in columns)) for what in columns[0]]
    note = (
        "<p class='note'>In brackets 95 % intervals: Wilson’s for the share that ended, Student’s "
        "for distinct, normal for the others. Distinct: mean over blocks of the answers, so it "
        "depends on how many there are; a dash where they are too short to tell.</p>"
    )
    words = [
        f"{what}: " + ", ".join(map(" ".join, zip(names, texts, strict=True)))
        for what, *texts in rows
    ]
    return Fragment(table(["", *names], rows, names) + note, "\n".join(words))


def _interval(score: MeanCI | None, shape: str) -> str:
    if score is None:
        return "–"

    def text(value: float) -> str:
        return f"{value:{shape}}" if "%" in shape else number(value)

    return f"{text(score.mean)} ({text(score.low)} to {text(score.high)})"


def form_figure(forms: dict[str, AnswerForm]) -> go.Figure:
    """The same as points with 95 % intervals, one panel per statistic.

    Args:
        forms: As in `form_table`; the first is drawn grey, as the reference.
    """
    figure = blank(300)
    panels = list(_rows(next(iter(forms.values()))))
    width = (1 - _GAP * (len(panels) - 1)) / len(panels)
    names = list(forms)
    for index, what in enumerate(panels):
        end = "" if index == 0 else str(index + 1)
        values, shapes = zip(*(_rows(form)[what] for form in forms.values()), strict=True)
        scores = [score or _NOTHING for score in values]
        left = index * (width + _GAP)
        figure.add_scatter(
            x=[escaped(name) for name in names],
            y=[score.mean for score in scores],
            error_y={
                "array": [score.high - score.mean for score in scores],
                "arrayminus": [score.mean - score.low for score in scores],
                "width": 6,
                "thickness": 1.8,
                "color": "rgba(128, 128, 128, 0.9)",
            },
            mode="markers",
            marker={"size": 11, "color": [REFERENCE, *[POLICY] * (len(names) - 1)]},
            xaxis=f"x{end}",
            yaxis=f"y{end}",
            showlegend=False,
            hovertemplate=f"%{{y:{shapes[0]}}}<extra>%{{x}}</extra>",
        )
        figure.update_layout(
            {
                f"xaxis{end}": {"domain": [left, left + width], "anchor": f"y{end}"}
                | {"title.text": "", "range": [-0.6, len(names) - 0.4], "type": "category"},
                f"yaxis{end}": {"anchor": f"x{end}", "rangemode": "tozero", "title.text": ""}
                | ({"tickformat": ".0%"} if "%" in shapes[0] else {}),
            }
        )
        figure.add_annotation(
            x=left, y=1, xref="paper", yref="paper", xanchor="left", yshift=8, text=f"<b>{what}</b>"
        )
    return figure.update_layout(hovermode="closest", margin={"l": 50, "r": 10, "t": 44, "b": 40})
