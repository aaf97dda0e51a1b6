"""Records of a run to plotly figures: pure functions, no widget and no file.

The training figure always holds the same traces in the same order, empty where the records have no
such metric, so that a live view can copy the data of a new figure into the one it shows.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go

from dpo_lab.training.records import StepRecord

CHOSEN = "#0072B2"
REJECTED = "#D55E00"
POLICY = "#009E73"
REFERENCE = "#999999"
THEORY = "#CC79A7"
TEXT = "#7a7a7a"
"""Grey that reads on white and on black; a page that knows its theme may set a stronger one."""
AXIS = "rgba(128, 128, 128, 0.5)"
GRID = "rgba(128, 128, 128, 0.18)"
SHADE = "rgba(128, 128, 128, 0.2)"

CONFIG = {"showSendToCloud": False, "displaylogo": False, "responsive": True}
CONFIG |= {"modeBarButtonsToRemove": ["lasso2d", "select2d"]}
"""Options of plotly's mode bar: no upload, no logo."""

HEIGHT = 840
MAX_POINTS = 1000

_COLUMNS = ((0, 0.281), (0.3595, 0.6405), (0.719, 1))
_TOP, _BOTTOM, _UPPER_HALF, _LOWER_HALF = (0.59, 1), (0, 0.41), (0.273, 0.41), (0, 0.137)
_SCORE, _SHADE = 7, 8
_SMALL = {"size": 11}
_CLEAR = "rgba(0, 0, 0, 0)"
_AXIS = {"gridcolor": GRID, "linecolor": AXIS, "zerolinecolor": AXIS, "tickfont": _SMALL}
_STEP = {"title": {"text": "optimiser step", "font": _SMALL, "standoff": 4}}
_STEP |= {"showspikes": False, "unifiedhovertitle": {"text": "step %{x}"}}
_LEGEND = {"orientation": "h", "bgcolor": _CLEAR, "font": _SMALL}
_STYLE = {
    "xaxis": _AXIS | _STEP | {"showline": True, "zeroline": False, "nticks": 7},
    "yaxis": _AXIS | {"nticks": 6, "title": {"font": _SMALL, "standoff": 6}},
    "annotationdefaults": {"showarrow": False, "yanchor": "bottom", "font": _SMALL},
    "shapedefaults": {"type": "line", "line": {"color": TEXT, "width": 1, "dash": "2px,2px"}},
    "font": {"color": TEXT, "size": 12, "family": "system-ui, sans-serif"},
    **dict.fromkeys(("paper_bgcolor", "plot_bgcolor"), _CLEAR),
    "modebar": {"bgcolor": _CLEAR, "color": AXIS, "activecolor": TEXT},
    "hovermode": "x unified",
    "hoverlabel": {"bgcolor": "#24292f", "font": {"color": "#f0f3f6"}},
}


@dataclass(frozen=True)
class _Panel:
    column: int
    rows: tuple[float, float]
    title: str
    unit: str
    note: str


_FELL = "grey where both are below 0: both lost probability"
_PANELS = {
    1: _Panel(0, _TOP, "Loss", "loss", "mean over pairs"),
    2: _Panel(1, _TOP, "Rewards", "reward (nats)", "β × log-ratio, mean over pairs"),
    3: _Panel(2, _TOP, "Reward margin", "margin (nats)", "band: 10th to 90th percentile"),
    4: _Panel(0, _BOTTOM, "KL(policy ‖ reference)", "KL (nats)", "on the policy's own samples"),
    5: _Panel(1, _BOTTOM, "Log-ratio to the reference", "log-ratio (nats)", _FELL),
    6: _Panel(2, _BOTTOM, "Pair accuracy", "share", "reward margin > 0: reads 0 at step 0"),
    _SCORE: _Panel(2, _LOWER_HALF, "Score", "score", "ground truth, mean over own samples"),
}


@dataclass(frozen=True)
class _Line:
    """One curve; `around` names its band's keys: a standard error, or a lower and an upper edge."""

    panel: int
    key: str
    name: str
    colour: str
    kind: str = "train"
    around: tuple[str, ...] = ()


_KINDS = {
    "train": {"mode": "lines", "line": {"width": 1.3}, "opacity": 0.8},
    "held-out": {"mode": "lines+markers", "line": {"width": 2, "dash": "4px,3px"}},
    "measured": {"mode": "lines+markers", "line": {"width": 2}},
    "faint": {"mode": "lines+markers", "line": {"width": 1.2, "dash": "2px,3px"}, "opacity": 0.8},
}
_QUIET = {"mode": "lines", "hoverinfo": "skip", "showlegend": False}
_PERCENTILES = ("rewards/margins_p10", "rewards/margins_p90")
_LINES = (
    _Line(1, "loss", "train", POLICY),
    _Line(1, "eval/loss", "held-out", POLICY, "held-out"),
    _Line(2, "rewards/chosen", "chosen", CHOSEN),
    _Line(2, "rewards/rejected", "rejected", REJECTED),
    _Line(2, "eval/rewards/chosen", "chosen, held-out", CHOSEN, "held-out"),
    _Line(2, "eval/rewards/rejected", "rejected, held-out", REJECTED, "held-out"),
    _Line(3, "rewards/margins", "train", POLICY, around=_PERCENTILES),
    _Line(3, "eval/rewards/margins", "held-out", POLICY, "held-out"),
    _Line(4, "kl/log_ratio", "plain log-ratio", POLICY, "faint", ("kl/log_ratio_stderr",)),
    _Line(4, "kl/policy", "exact per token", POLICY, "measured", ("kl/policy_stderr",)),
    _Line(5, "drift/chosen", "chosen", CHOSEN),
    _Line(5, "drift/rejected", "rejected", REJECTED),
    _Line(5, "eval/drift/chosen", "chosen, held-out", CHOSEN, "held-out"),
    _Line(5, "eval/drift/rejected", "rejected, held-out", REJECTED, "held-out"),
    _Line(6, "rewards/accuracies", "train", POLICY),
    _Line(6, "eval/rewards/accuracies", "held-out", POLICY, "held-out"),
    _Line(_SCORE, "score/policy", "policy", POLICY, "measured"),
    _Line(_SCORE, "score/reference", "reference", REFERENCE, "measured"),
)


def thin(rows: np.ndarray, limit: int = MAX_POINTS) -> np.ndarray:
    """Evenly spaced rows, always with the first and the last.

    Args:
        rows: `(n,)` or `(n, columns)`.
        limit: Most rows to keep, at least 2.

    Returns:
        At most `limit` rows, unchanged and in order; all of them when there are no more.
    """
    keep = np.linspace(0, len(rows) - 1, min(len(rows), limit))
    return rows[keep.round().astype(int)]


def series(records: Sequence[StepRecord], *keys: str) -> np.ndarray:
    """The steps on which every key was measured, thinned.

    Args:
        records: Of one run, in order of steps.
        *keys: Logged names.

    Returns:
        `(points, 1 + keys)` in float32: step, then each key's value in its own unit.
    """
    rows = [(record.step, *map(record.get, keys)) for record in records]
    rows = [row for row in rows if None not in row]
    return thin(np.array(rows, dtype=np.float32).reshape(-1, 1 + len(keys)))


def beta_changes(records: Sequence[StepRecord]) -> list[tuple[int, float]]:
    """Step and new beta wherever beta differs from that of the record before."""
    return [(new.step, new.beta) for old, new in pairwise(records) if new.beta != old.beta]


def training_figure(
    records: Sequence[StepRecord], *, title: str | None = None, start_loss: float | None = None
) -> go.Figure:
    """Loss, rewards, reward margin, KL, log-ratios and accuracy of one run, over its steps.

    Args:
        records: Of one run, in order of steps; may be empty.
        title: Plain text above the panels.
        start_loss: The loss at margin 0, drawn dashed; ln 2 for the DPO loss, which is in nats.

    Returns:
        A figure of `HEIGHT` pixels, and 34 more for a title, and any width from about 1000. A
        ground-truth score, where there is one, stands below the accuracy on its own axis.
    """
    in_nats = math.isclose(start_loss or 0, math.log(2), rel_tol=1e-6)
    traces = [_start_line(records, start_loss, "ln 2" if in_nats else "at margin 0")]
    for line in _LINES:
        traces += [*_band(records, line), _curve(records, line)]
    traces.append(_shade(records))
    axes = {trace.yaxis for trace in traces if len(trace.x)}
    filled = {number for number in _PANELS if _axis("y", number) in axes}
    panels = _panels(records, filled, in_nats)
    space = 34 if title else 0
    layout = {
        "template": {"layout": _STYLE},
        "height": HEIGHT + space,
        "margin": {"l": 60, "r": 14, "t": 92 + space, "b": 46},
        "annotations": [],
        "shapes": [],
        **dict.fromkeys((f"xaxis{_SCORE}", f"yaxis{_SCORE}"), {"visible": False}),
        f"yaxis{_SHADE}": {"overlaying": "y5", "range": [0, 1], "visible": False},
    }
    if title:
        text = {"text": f"<b>{html.escape(title, quote=False)}</b>", "font": {"size": 17}}
        layout["title"] = text | {"x": 0, "xref": "paper", "y": 1, "yanchor": "top", "pad.t": 12}
    for number, panel in panels.items():
        _add_panel(layout, number, panel, number in filled)
    layout["yaxis4"]["rangemode"] = "tozero"
    layout["yaxis6"] |= {"range": [-0.06, 1.06], "tickformat": ".0%", "tickvals": [0, 0.5, 1]}
    if _SCORE in panels:
        layout["xaxis6"] |= {"showticklabels": False, "title.text": ""}
    _mark_beta(layout, records, panels)
    return go.Figure({"data": traces, "layout": layout})


def _panels(records: Sequence[StepRecord], filled: set[int], in_nats: bool) -> dict[int, _Panel]:
    """The panels with what depends on the run: unit of the loss, n of the KL, room for a score."""
    panels = {n: panel for n, panel in _PANELS.items() if n != _SCORE or n in filled}
    if _SCORE in filled:
        panels[6] = replace(panels[6], rows=_UPPER_HALF)
    panels[1] = replace(panels[1], unit="loss (nats)" if in_nats else "loss")
    sizes = sorted({int(n) for r in records if (n := r.get("kl/policy_n")) is not None})
    if sizes:
        count = f"{sizes[0]}–{sizes[-1]}" if len(sizes) > 1 else sizes[0]
        panels[4] = replace(panels[4], note=f"n = {count} of the policy's own samples, ±1 s.e.")
    return panels


def _add_panel(layout: dict, number: int, panel: _Panel, filled: bool) -> None:
    """Axes, legend and heading of one panel; an empty one says so."""
    x, y = _axis("x", number), _axis("y", number)
    left, right = _COLUMNS[panel.column]
    shared = {"showticklabels": filled, "anchor": y, "domain": [left, right]}
    layout[f"xaxis{number}"] = shared | ({"matches": "x"} if number > 1 else {})
    shared |= {"anchor": x, "domain": panel.rows}
    layout[f"yaxis{number}"] = shared | {"title.text": panel.unit}
    place = {"x": left, "y": panel.rows[1] + 0.016, "yanchor": "bottom"}
    layout[_axis("legend", number)] = place | _LEGEND
    place = {"xref": f"{x} domain", "yref": f"{y} domain"}
    heading = f"<b style='font-size:14px'>{panel.title}</b><br>{panel.note}"
    corner = {"x": 0, "xanchor": "left", "y": 1, "yshift": 34, "align": "left"}
    layout["annotations"].append(place | corner | {"text": heading})
    if not filled:
        layout["annotations"].append(place | {"text": "no values yet", "x": 0.5, "y": 0.5})


def _mark_beta(layout: dict, records: Sequence[StepRecord], panels: Iterable[int]) -> None:
    """A vertical line in every panel at each change; its value where there is room for it."""
    room = 0.15 * (records[-1].step - records[0].step) if records else 0
    labelled = -math.inf
    for step, beta in beta_changes(records):
        place = [{"xref": _axis("x", n), "yref": f"{_axis('y', n)} domain"} for n in panels]
        line = {"x0": step, "x1": step, "y0": 0, "y1": 1, "name": "beta"}
        layout["shapes"] += [axes | line for axes in place]
        if step - labelled >= room:
            labelled = step
            value = {"text": f"β {beta:.3g}", "x": step, "y": 1, "borderpad": 0, "name": "beta"}
            layout["annotations"] += [axes | value for axes in place]


def _curve(records: Sequence[StepRecord], line: _Line) -> go.Scatter:
    points, kind = series(records, line.key), _KINDS[line.kind]
    # One entry stands for both dashed lines of a panel.
    label = "held-out" if line.kind == "held-out" else line.name
    look = kind | {"line": kind["line"] | {"color": line.colour}}
    look |= {"marker": {"size": 4, "color": line.colour}, "legendgroup": label}
    look |= {"showlegend": len(points) > 0 and (label == line.name or line.colour == CHOSEN)}
    at = "" if line.kind == "train" else " at step %{x}"
    look |= {"hovertemplate": f"%{{y:.4g}}{at}<extra>{line.name}</extra>"}
    return _trace(line.panel, points[:, 0], points[:, 1], name=label, meta=line.key, **look)


def _band(records: Sequence[StepRecord], line: _Line) -> list[go.Scatter]:
    """Lower and upper edge, filled between; none for a line that has no band."""
    if not line.around:
        return []
    points = series(records, line.key, *line.around)
    # One sample has no standard error.
    points = points[np.isfinite(points).all(axis=1)]
    steps, value, *around = points.T
    low, high = around if len(around) == 2 else (value - around[0], value + around[0])
    alpha = 0.1 if line.kind == "faint" else 0.2
    red, green, blue = (int(line.colour[i : i + 2], 16) for i in (1, 3, 5))
    look = _QUIET | {"line": {"width": 0}, "legendgroup": line.name}
    fill = {"fill": "tonexty", "fillcolor": f"rgba({red}, {green}, {blue}, {alpha})"}
    low = _trace(line.panel, steps, low, meta=f"{line.key} low", **look)
    return [low, _trace(line.panel, steps, high, meta=f"{line.key} high", **look | fill)]


def _start_line(records: Sequence[StepRecord], start_loss: float | None, name: str) -> go.Scatter:
    drawn = bool(records) and start_loss is not None
    steps = series(records)[[0, -1], 0] if drawn else np.zeros(0, np.float32)
    values = np.full_like(steps, start_loss or 0)
    look = _QUIET | {"line": {"color": THEORY, "width": 1.5, "dash": "7px,4px"}}
    return _trace(1, steps, values, name=name, meta="start_loss", **look | {"showlegend": drawn})


def _shade(records: Sequence[StepRecord]) -> go.Scatter:
    """1 where both log-ratios of a step's training pairs are below zero, else 0."""
    points = series(records, "drift/chosen", "drift/rejected")
    both = (points[:, 1:] < 0).all(axis=1).astype(np.float32)
    # Filled from midpoint to midpoint, so that a single step is seen too.
    look = _QUIET | {"line": {"width": 0, "shape": "hvh"}, "fill": "tozeroy", "fillcolor": SHADE}
    return _trace(5, points[:, 0], both, meta="both fell", yaxis=f"y{_SHADE}", **look)


def _trace(panel: int, steps: np.ndarray, values: np.ndarray, **options) -> go.Scatter:
    axes = {"xaxis": _axis("x", panel), "yaxis": _axis("y", panel)}
    return go.Scatter(x=steps, y=values, legend=_axis("legend", panel), **axes | options)


def _axis(name: str, number: int) -> str:
    """Plotly calls the first of each by its bare name."""
    return name if number == 1 else f"{name}{number}"
