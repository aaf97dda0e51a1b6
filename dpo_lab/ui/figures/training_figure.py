"""The training figure from the records of a run: pure functions, no widgets, no files.

The figure always has the same traces in the same order, empty where the records lack the metric,
so that a live view can copy the data of a new figure into the one it shows.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dpo_lab.analysis.frontier_curve import LISTED, FrontierCurve, on_frontier
from dpo_lab.models.response_space import LEFT_OUT, MAX_WORDS
from dpo_lab.training.history import History
from dpo_lab.training.outcome import MeanCI
from dpo_lab.training.records import StepRecord
from dpo_lab.ui.figures.style import LEGEND, STYLE
from dpo_lab.ui.figures.training_curves import (
    FORMER_CURVES,
    FORMER_RUNS,
    FRONTIER,
    SCORE,
    SHADED,
    Former,
    StartLoss,
    axis,
    changes,
    learns_from_samples,
    traces_of,
)

_MARGIN, _ROW, _GAP = {"l": 60, "r": 14, "t": 92, "b": 46}, 288, 126
"""Pixels around the panels, height of a row, and pixels between two rows."""
MAX_CHANGES = 40
"""Maximum number of mid-run changes that are marked; the newest are kept."""
_LEFT, _MIDDLE, _RIGHT, _WIDE = (0, 0.281), (0.3595, 0.6405), (0.719, 1), (0.3595, 1)


@dataclass(frozen=True)
class _Panel:
    columns: tuple[float, float]
    row: int
    title: str
    unit: str
    note: str


_FELL = "mean over pairs; grey where both are below 0"
_PANELS = {
    1: _Panel(_LEFT, 0, "Loss", "loss", "mean over pairs"),
    2: _Panel(_MIDDLE, 0, "Rewards", "reward (nats)", "β × log-ratio, mean over pairs"),
    3: _Panel(_RIGHT, 0, "Reward margin", "margin (nats)", "band: 10th to 90th percentile"),
    4: _Panel(_LEFT, 1, "KL(policy ‖ reference)", "KL (nats)", "on the policy's own samples"),
    5: _Panel(_MIDDLE, 1, "Log-ratio to the reference", "log-ratio (nats)", _FELL),
    6: _Panel(_RIGHT, 1, "Pair accuracy", "share", "reward margin > 0; a tie at step 0 reads 0"),
    SCORE: _Panel(_LEFT, 2, "Score", "score", "mean over the policy's own samples"),
    FRONTIER: _Panel(_WIDE, 2, "Score against KL", "score", "what the policy gained for its KL"),
}

_OF_SAMPLES = {
    1: replace(_PANELS[1], title="Reward of its answers", unit="reward", note="mean over a step"),
    2: replace(_PANELS[2], title="Implicit rewards", note="β × log-ratio, over held-out pairs"),
    3: replace(_PANELS[3], title="Entropy", unit="nats per token", note="mean over a step"),
    5: replace(_PANELS[5], note="mean over held-out pairs"),
}
"""The panels that are others where the policy learns from its own answers."""

_THIRD_ROW = (SCORE, FRONTIER)


def training_figure(
    records: Sequence[StepRecord],
    *,
    title: str | None = None,
    start_loss: StartLoss | None = None,
    former: Sequence[Former] = (),
    theory: FrontierCurve | None = None,
    aims_at_optimum: bool = True,
) -> go.Figure:
    """Loss, rewards, reward margin, KL, log-ratios and accuracy of one run, over its steps.

    Args:
        records: Records of one run, in step order; may be empty.
        title: Plain text above the panels.
        start_loss: The loss at margin 0, drawn dashed: one value, or pairs of a step and the value
            from then on. It is ln 2 for the DPO loss, which is in nats.
        former: Earlier runs to draw behind, the newest first.
        theory: The exact frontier, if it is known.
        aims_at_optimum: Whether pi* is the optimum of the run's loss, and is drawn.

    Returns:
        A figure for any width from about 1000 pixels. If there is a score, a third row shows it
        over the steps and against the KL.
    """
    spec = training_spec(
        records,
        title=title,
        start_loss=start_loss,
        former=former,
        theory=theory,
        aims_at_optimum=aims_at_optimum,
    )
    unused = FORMER_RUNS - len(former[:FORMER_RUNS])
    return go.Figure(spec | {"data": spec["data"][unused * FORMER_CURVES :]})


def training_spec(
    records: Sequence[StepRecord],
    *,
    title: str | None = None,
    start_loss: StartLoss | None = None,
    former: Sequence[Former] = (),
    theory: FrontierCurve | None = None,
    aims_at_optimum: bool = True,
) -> dict[str, Any]:
    """The same as plain dictionaries, `data` and `layout`, with slots for `FORMER_RUNS` runs.

    Number and order of the traces do not depend on what was measured, so that a live view can
    keep them and update what changed.
    """
    records = History.of(records)
    if isinstance(start_loss, float):
        start_loss = [(records[0].step if records else 0, start_loss)]
    values = [value for _, value in start_loss or ()]
    in_nats = bool(values) and np.allclose(values, math.log(2), rtol=1e-6, atol=0)
    name = "ln 2" if in_nats else "at margin 0"
    traces = traces_of(records, start_loss or (), name, former, theory, aims_at_optimum)
    axes = {trace["yaxis"] for trace in traces if len(trace["x"])}
    filled = {number for number in _PANELS if axis("y", number) in axes}
    panels = _panels(records, filled, in_nats, theory)
    space, rows = 34 if title else 0, 1 + max(panel.row for panel in panels.values())
    area = rows * _ROW + (rows - 1) * _GAP
    layout = {
        "template": {"layout": STYLE},
        "height": _MARGIN["t"] + space + area + _MARGIN["b"],
        "margin": _MARGIN | {"t": _MARGIN["t"] + space},
        "annotations": [],
        "shapes": [],
        **{f"{xy}axis{number}": {"visible": False} for xy in "xy" for number in _THIRD_ROW},
        f"yaxis{SHADED}": {"overlaying": "y5", "range": [0, 1], "visible": False},
    }
    if title:
        text = {"text": f"<b>{html.escape(title, quote=False)}</b>", "font": {"size": 17}}
        layout["title"] = text | {"x": 0, "xref": "paper", "y": 1, "yanchor": "top", "pad.t": 12}
    for number, panel in panels.items():
        _add_panel(layout, number, panel, area, number in filled)
    layout["yaxis4"]["rangemode"] = "tozero"
    layout["yaxis6"] |= {"range": [-0.06, 1.06], "tickformat": ".0%", "tickvals": [0, 0.5, 1]}
    if FRONTIER in panels:
        kl = "KL(policy ‖ reference) (nats)"
        kl += f", up to word {MAX_WORDS}" if on_frontier(records) is LISTED else ""
        against = {"title.text": kl, "rangemode": "tozero"}
        layout[f"xaxis{FRONTIER}"].pop("matches")
        layout[f"xaxis{FRONTIER}"] |= against | {"unifiedhovertitle": {"text": "KL %{x}"}}
    _mark_changes(layout, records, panels.keys() - {FRONTIER})
    return {"data": traces, "layout": layout}


def _panels(
    records: History, filled: set[int], in_nats: bool, theory: FrontierCurve | None
) -> dict[int, _Panel]:
    """The panels, adapted to the run: unit of the loss, n of the means, whether it has a score."""
    panels = {n: panel for n, panel in _PANELS.items() if n not in _THIRD_ROW or SCORE in filled}
    panels[1] = replace(panels[1], unit="loss (nats)" if in_nats else "loss")
    if learns_from_samples(records):
        kept = len(records.columns("rewards/chosen")) > 0
        panels |= {n: panel for n, panel in _OF_SAMPLES.items() if n in (1, 3) or not kept}
    sizes = np.unique(records.columns("kl/n")[:, 1]).astype(int)
    held_out = records.newest("eval/rewards/accuracies", "eval/pairs")
    if held_out and held_out.step:
        share, pairs = held_out["eval/rewards/accuracies"], int(held_out["eval/pairs"])
        interval = MeanCI.of_share(share, pairs)
        note = f"held-out n = {pairs}: {interval.low:.0%} to {interval.high:.0%}"
        panels[6] = replace(panels[6], note=f"{note} (95 %); step 0: tie")
    if theory is not None and FRONTIER in panels:
        note = f"pink: the most that any policy scores in up to {MAX_WORDS} words, exactly"
        share = records.last("listed/beyond") or 0.0
        if share > LEFT_OUT:
            note += f"; {share:.0%} go on"
        panels[FRONTIER] = replace(panels[FRONTIER], note=note)
    if len(sizes):
        count = f"{sizes[0]}–{sizes[-1]}" if len(sizes) > 1 else sizes[0]
        own = f"n = {count} of the policy's own samples, ±1 s.e."
        panels |= {n: replace(panels[n], note=own) for n in {4, SCORE} & panels.keys()}
        prompts, cut = (records.columns(key)[:, 1] for key in ("kl/prompts", "kl/cut"))
        if len(prompts):
            note = f"n = {count}, {int(prompts[-1])} prompts; ±1 s.e. over prompts"
            panels |= {n: replace(panels[n], note=note) for n in {4, SCORE} & panels.keys()}
        if cut.any():
            note = f"n = {count}, up to {cut.max():.0%} cut at their limit; ±1 s.e."
            panels[4] = replace(panels[4], title=f"{panels[4].title}, at least", note=note)
    return panels


def _add_panel(layout: dict, number: int, panel: _Panel, area: int, filled: bool) -> None:
    """Axes, legend and heading of one panel; an empty one says so."""
    x, y = axis("x", number), axis("y", number)
    left, right = panel.columns
    top = 1 - panel.row * (_ROW + _GAP) / area
    shared = {"showticklabels": filled, "anchor": y, "domain": [left, right]}
    layout[f"xaxis{number}"] = shared | ({"matches": "x"} if number > 1 else {})
    shared |= {"anchor": x, "domain": [max(0.0, top - _ROW / area), top]}
    layout[f"yaxis{number}"] = shared | {"title.text": panel.unit}
    place = {"x": left, "y": top + 11 / area, "yanchor": "bottom"}
    layout[axis("legend", number)] = place | LEGEND
    place = {"xref": f"{x} domain", "yref": f"{y} domain"}
    heading = f"<b style='font-size:14px'>{panel.title}</b><br>{panel.note}"
    corner = {"x": 0, "xanchor": "left", "y": 1, "yshift": 34, "align": "left"}
    layout["annotations"].append(place | corner | {"text": heading})
    if not filled:
        layout["annotations"].append(place | {"text": "no values yet", "x": 0.5, "y": 0.5})


def _mark_changes(layout: dict, records: History, panels: Iterable[int]) -> None:
    """A vertical line in every panel at each change, labelled where there is room."""
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
