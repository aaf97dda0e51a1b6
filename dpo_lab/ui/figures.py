"""Records of a run to plotly figures: pure functions, no widget and no file.

The training figure always holds the same traces in the same order, empty where the records have no
such metric, so that a live view can copy the data of a new figure into the one it shows.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dpo_lab.training.history import History
from dpo_lab.training.records import StepRecord
from dpo_lab.ui.curves import (
    FORMER_CURVES,
    FORMER_RUNS,
    SCORE,
    SHADED,
    Former,
    axis,
    changes,
    traces_of,
)
from dpo_lab.ui.style import LEGEND, STYLE

HEIGHT = 840
MAX_CHANGES = 40
"""Changes in mid-run that are marked, the newest."""
_COLUMNS = ((0, 0.281), (0.3595, 0.6405), (0.719, 1))
_TOP, _BOTTOM, _UPPER_HALF, _LOWER_HALF = (0.59, 1), (0, 0.41), (0.273, 0.41), (0, 0.137)


@dataclass(frozen=True)
class _Panel:
    column: int
    rows: tuple[float, float]
    title: str
    unit: str
    note: str


_FELL = "grey where both are below 0: both fell"
_PANELS = {
    1: _Panel(0, _TOP, "Loss", "loss", "mean over pairs"),
    2: _Panel(1, _TOP, "Rewards", "reward (nats)", "β × log-ratio, mean over pairs"),
    3: _Panel(2, _TOP, "Reward margin", "margin (nats)", "band: 10th to 90th percentile"),
    4: _Panel(0, _BOTTOM, "KL(policy ‖ reference)", "KL (nats)", "on the policy's own samples"),
    5: _Panel(1, _BOTTOM, "Log-ratio to the reference", "log-ratio (nats)", _FELL),
    6: _Panel(2, _BOTTOM, "Pair accuracy", "share", "reward margin > 0: reads 0 at step 0"),
    SCORE: _Panel(2, _LOWER_HALF, "Score", "score", "ground truth, mean over own samples"),
}


def training_figure(
    records: Sequence[StepRecord],
    *,
    title: str | None = None,
    start_loss: float | None = None,
    former: Sequence[Former] = (),
) -> go.Figure:
    """Loss, rewards, reward margin, KL, log-ratios and accuracy of one run, over its steps.

    Args:
        records: Of one run, in order of steps; may be empty.
        title: Plain text above the panels.
        start_loss: The loss at margin 0, drawn dashed; ln 2 for the DPO loss, which is in nats.
        former: Runs drawn behind, the newest first.

    Returns:
        A figure of `HEIGHT` pixels, and 34 more for a title, and any width from about 1000. A
        ground-truth score, where there is one, stands below the accuracy on its own axis.
    """
    spec = training_spec(records, title=title, start_loss=start_loss, former=former)
    unused = FORMER_RUNS - len(former[:FORMER_RUNS])
    return go.Figure(spec | {"data": spec["data"][unused * FORMER_CURVES :]})


def training_spec(
    records: Sequence[StepRecord],
    *,
    title: str | None = None,
    start_loss: float | None = None,
    former: Sequence[Former] = (),
) -> dict[str, Any]:
    """The same as plain dictionaries, `data` and `layout`, with room for `FORMER_RUNS` runs.

    The traces are the same in number and order whatever was measured: a live view keeps them and
    takes what changed.
    """
    records = History.of(records)
    in_nats = math.isclose(start_loss or 0, math.log(2), rel_tol=1e-6)
    traces = traces_of(records, start_loss, "ln 2" if in_nats else "at margin 0", former)
    axes = {trace["yaxis"] for trace in traces if len(trace["x"])}
    filled = {number for number in _PANELS if axis("y", number) in axes}
    panels = _panels(records, filled, in_nats)
    space = 34 if title else 0
    layout = {
        "template": {"layout": STYLE},
        "height": HEIGHT + space,
        "margin": {"l": 60, "r": 14, "t": 92 + space, "b": 46},
        "annotations": [],
        "shapes": [],
        **dict.fromkeys((f"xaxis{SCORE}", f"yaxis{SCORE}"), {"visible": False}),
        f"yaxis{SHADED}": {"overlaying": "y5", "range": [0, 1], "visible": False},
    }
    if title:
        text = {"text": f"<b>{html.escape(title, quote=False)}</b>", "font": {"size": 17}}
        layout["title"] = text | {"x": 0, "xref": "paper", "y": 1, "yanchor": "top", "pad.t": 12}
    for number, panel in panels.items():
        _add_panel(layout, number, panel, number in filled)
    layout["yaxis4"]["rangemode"] = "tozero"
    layout["yaxis6"] |= {"range": [-0.06, 1.06], "tickformat": ".0%", "tickvals": [0, 0.5, 1]}
    if SCORE in panels:
        layout["xaxis6"] |= {"showticklabels": False, "title.text": ""}
    _mark_changes(layout, records, panels)
    return {"data": traces, "layout": layout}


def _panels(records: History, filled: set[int], in_nats: bool) -> dict[int, _Panel]:
    """The panels with what depends on the run: unit of the loss, n of the KL, room for a score."""
    panels = {n: panel for n, panel in _PANELS.items() if n != SCORE or n in filled}
    if SCORE in filled:
        panels[6] = replace(panels[6], rows=_UPPER_HALF)
    panels[1] = replace(panels[1], unit="loss (nats)" if in_nats else "loss")
    sizes = np.unique(records.columns("kl/policy_n")[:, 1]).astype(int)
    if len(sizes):
        count = f"{sizes[0]}–{sizes[-1]}" if len(sizes) > 1 else sizes[0]
        panels[4] = replace(panels[4], note=f"n = {count} of the policy's own samples, ±1 s.e.")
    return panels


def _add_panel(layout: dict, number: int, panel: _Panel, filled: bool) -> None:
    """Axes, legend and heading of one panel; an empty one says so."""
    x, y = axis("x", number), axis("y", number)
    left, right = _COLUMNS[panel.column]
    shared = {"showticklabels": filled, "anchor": y, "domain": [left, right]}
    layout[f"xaxis{number}"] = shared | ({"matches": "x"} if number > 1 else {})
    shared |= {"anchor": x, "domain": panel.rows}
    layout[f"yaxis{number}"] = shared | {"title.text": panel.unit}
    place = {"x": left, "y": panel.rows[1] + 0.016, "yanchor": "bottom"}
    layout[axis("legend", number)] = place | LEGEND
    place = {"xref": f"{x} domain", "yref": f"{y} domain"}
    heading = f"<b style='font-size:14px'>{panel.title}</b><br>{panel.note}"
    corner = {"x": 0, "xanchor": "left", "y": 1, "yshift": 34, "align": "left"}
    layout["annotations"].append(place | corner | {"text": heading})
    if not filled:
        layout["annotations"].append(place | {"text": "no values yet", "x": 0.5, "y": 0.5})


def _mark_changes(layout: dict, records: History, panels: Iterable[int]) -> None:
    """A vertical line in every panel at each change; its value where there is room for it."""
    room = 0.15 * (records[-1].step - records[0].step) if records else 0
    labelled = -math.inf
    for step, words in changes(records)[-MAX_CHANGES:]:
        place = [{"xref": axis("x", n), "yref": f"{axis('y', n)} domain"} for n in panels]
        line = {"x0": step, "x1": step, "y0": 0, "y1": 1, "name": "change"}
        layout["shapes"] += [axes | line for axes in place]
        if step - labelled >= room:
            labelled = step
            value = {"text": words, "x": step, "y": 1, "borderpad": 0, "name": "change"}
            layout["annotations"] += [axes | value for axes in place]
