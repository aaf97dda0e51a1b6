"""Figures of RLHF beside DPO: where the gap to pi* comes from, an over-optimised reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from dpo_lab.analysis.optimality_gap import (
    COVERAGE,
    ESTIMATOR,
    NOISE,
    OPTIMISATION,
    GapPart,
    OptimalityGap,
)
from dpo_lab.training.history import History
from dpo_lab.training.records import StepRecord
from dpo_lab.ui.figures.style import CHOSEN, POLICY, REFERENCE, REJECTED, THEORY, blank, line
from dpo_lab.ui.html.tables import escaped

_COLOURS = {NOISE: REJECTED, COVERAGE: CHOSEN, ESTIMATOR: THEORY, OPTIMISATION: REFERENCE}
_BAR = 62
"""Pixels of a bar with the space around it."""


def gap_figure(gaps: Mapping[str, OptimalityGap]) -> go.Figure:
    """A bar for each run: the parts of its gap to pi*, which sum to it.

    A part below 0, where the exact thing did worse, is drawn to the left of 0.

    Args:
        gaps: By the run's name.
    """
    figure = blank(120 + _BAR * len(gaps))
    ends = [
        [sum(each(p.gain, 0.0) for p in gap.parts) for gap in gaps.values()] for each in (min, max)
    ]
    least, most = min(ends[0]), max(ends[1])
    names = [escaped(name) for name in gaps]
    for part, colour in _COLOURS.items():
        found = [next((p for p in gap.parts if p.name == part), None) for gap in gaps.values()]
        figure.add_bar(
            y=names,
            x=[0 if p is None else p.gain for p in found],
            orientation="h",
            name=part,
            marker={"color": colour},
            width=0.62,
            text=[_wide(p, most - least) for p in found],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            constraintext="none",
            textfont={"color": "white"},
            customdata=["" if p is None else escaped(p.words) for p in found],
            hovertemplate="%{x:.3f}: %{customdata}",
        )
    for name, end, gap in zip(names, ends[1], gaps.values(), strict=True):
        words = f"in all {gap.whole:.3f}"
        figure.add_annotation(x=end, y=name, text=words, xanchor="left", yanchor="middle", xshift=6)
    figure.update_xaxes(
        title_text="J(π*) − J(policy)", range=[1.05 * least, 1.18 * most], zeroline=True
    )
    figure.update_yaxes(autorange="reversed", automargin=True, ticklabelstandoff=8)
    figure.update_layout(barmode="relative", hovermode="closest")
    return figure


def _wide(part: GapPart | None, span: float) -> str:
    """What is written in a part of a bar, if it is wide enough."""
    wide = part is not None and abs(part.gain) > 0.04 * span
    return f"{part.gain:.2f}".replace("-", "−") if wide else ""


def overoptimisation_figure(records: Sequence[StepRecord]) -> go.Figure:
    """What a policy gained by its reward model, and in truth, as it moves from the reference.

    A reward model's zero is arbitrary, so both are drawn from where they began.

    Args:
        records: Of a run on a reward model, evaluated at least twice.

    Raises:
        ValueError: If it has no such evaluations.
    """
    records = History.of(records)
    by_truth, by_model = (
        records.columns("kl/per_token", key)[:, 1:] for key in ("score/policy", "proxy/policy")
    )
    if min(len(by_truth), len(by_model)) < 2:
        raise ValueError(
            "records: no two evaluations with a reward model and a true score. Train with --reward "
            "FOLDER on data with a score, and --eval-every."
        )
    figure = blank(420)
    figure.add_hline(y=0, line={"color": REFERENCE, "width": 1})
    for points, name, colour in (
        (by_model, "by its reward model", REJECTED),
        (by_truth, "in truth", POLICY),
    ):
        kl, reward = points.T
        line(figure, kl, reward - points[0, 1], name, colour)
        figure.data[-1].update(mode="lines+markers", marker={"size": 6})
    figure.update_xaxes(
        title_text="KL(policy ‖ reference) (nats)", unifiedhovertitle={"text": "KL %{x:.2f}"}
    )
    figure.update_yaxes(title_text="reward gained since the start")
    return figure
