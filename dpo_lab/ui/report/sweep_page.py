"""A sweep as one figure: what every run gained for its KL, with the exact frontier behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from dpo_lab.analysis.frontier_curve import LISTED, SAMPLED, FrontierCurve
from dpo_lab.analysis.sweep_points import SweepPoint, sweep_points
from dpo_lab.models.enumeration import enumerable
from dpo_lab.models.loading import load_model
from dpo_lab.models.response_space import LEFT_OUT, MAX_WORDS, ResponseSpace
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.exact_metrics import MOST_PROMPTS
from dpo_lab.training.files import write_text
from dpo_lab.training.setup import load_data
from dpo_lab.ui.figures.style import PLOTLY_CONFIG, SYMBOLS, TEXT, THEORY, blank
from dpo_lab.ui.html.page_policy import content_policy, scripts_of
from dpo_lab.ui.html.tables import escaped

SCALE = "Viridis"
HOVER = "%{text}<br>KL %{x:.3g}, %{y:.3g}<extra></extra>"
REFRESH = 5
"""Seconds after which an open page of a sweep that goes on loads itself again."""


def sweep_figure(
    rows: Sequence[Mapping[str, Any]], theory: FrontierCurve | None = None
) -> go.Figure:
    """Score of each run against its KL, with standard errors; coloured by beta, shaped by loss.

    Runs that differ only in their seed are small points around their mean, whose errors are those
    over seeds. A point is named if no other has a higher score at the same or a smaller KL.

    Args:
        rows: Of `dpo_lab.training.sweep.table`; without a score, held-out accuracy is drawn.
        theory: The exact frontier, where it is known.
    """
    scored = any(row.get("score/policy") is not None for row in rows)
    kl, key = SAMPLED if scored else ("kl/per_token", "eval/rewards/accuracies")
    if rows and all(row.get(name) is not None for row in rows for name in LISTED):
        kl, key = LISTED
    rows = [row for row in rows if None not in (row.get(kl), row.get(key))]
    figure = blank(560).update_layout(hovermode="closest")
    figure.update_yaxes(title_text="score" if scored else "held-out pair accuracy")
    figure.update_xaxes(title_text=_kl_title(rows, listed=key in LISTED), rangemode="tozero")
    if theory is not None and rows and scored:
        reach = 1.1 * max(row[kl] for row in rows)
        curve = theory.up_to(max(reach, 0.1))
        line = {"color": THEORY, "width": 2}
        figure.add_scatter(x=curve[:, 0], y=curve[:, 1], name="exact frontier", line=line)
    points = sweep_points(rows, kl, key)
    betas = sorted({row["beta"] for row in rows if "beta" in row})
    places = np.linspace(0.05, 0.95, max(len(betas), 1)).tolist()
    colours = dict(zip(betas, sample_colorscale(SCALE, places), strict=False))
    if any("beta" not in row for row in rows):
        colours[None] = TEXT
    symbols = dict(zip(sorted({_loss(row) for row in rows}), cycle(SYMBOLS), strict=False))
    for beta, colour in colours.items():
        some = [point for point in points if point.rows[0].get("beta") == beta]
        firsts = [point.rows[0] for point in some]
        bars = {"width": 0, "thickness": 1, "color": colour}
        named = f"β {beta:g}" if beta is not None else "no β" if betas else "runs"
        figure.add_scatter(
            x=[point.kl for point in some],
            y=[point.score for point in some],
            error_x={"array": [point.kl_stderr for point in some]} | bars,
            error_y={"array": [point.score_stderr for point in some]} | bars,
            text=[escaped(p.name) + _seeds(p) + _goes_on(p.rows[0]) for p in some],
            hovertemplate=HOVER,
            mode="markers",
            marker={"size": 9, "color": colour, "symbol": [symbols[_loss(row)] for row in firsts]},
            name=named,
        )
        seeds = [row for point in some if len(point.rows) > 1 for row in point.rows]
        _add_seeds(figure, [(row, row[kl], row[key]) for row in seeds], colour, named)
    _add_names(figure, points)
    if len(symbols) > 1:
        for loss, symbol in symbols.items():
            marker = {"size": 9, "color": TEXT, "symbol": f"{symbol}-open"}
            figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, name=loss)
    return figure


def _kl_title(rows: Sequence[Mapping[str, Any]], *, listed: bool) -> str:
    """Title of the KL axis, with what the reader must know of its values."""
    title = "KL(policy ‖ reference) (nats)"
    if listed:
        title += f"; both exact, in answers of at most {MAX_WORDS} words"
        if long := sum(bool(_goes_on(row)) for row in rows):
            title += f" ({long} of {len(rows)} points go on in more than {LEFT_OUT:.0%} of theirs)"
    elif cut := max((row.get("kl/cut") or 0.0 for row in rows), default=0.0):
        title += f", at least: up to {cut:.0%} of answers cut"
    return title


def _add_seeds(
    figure: go.Figure,
    seeds: Sequence[tuple[Mapping[str, Any], float, float]],
    colour: str,
    name: str,
) -> None:
    """Draw single runs around their means: each its row, KL and score."""
    if not seeds:
        return
    figure.add_scatter(
        x=[kl for _, kl, _ in seeds],
        y=[score for _, _, score in seeds],
        text=[escaped(row["run"]) + _goes_on(row) for row, _, _ in seeds],
        hovertemplate=HOVER,
        mode="markers",
        marker={"size": 4, "color": colour, "opacity": 0.6},
        name=name,
        showlegend=False,
    )


def _add_names(figure: go.Figure, points: Sequence[SweepPoint]) -> None:
    """Write the names of the best points below them, where the frontier is not."""
    last = max((point.kl for point in points), default=0.0)
    for point in _named(points):
        left = point.kl > 0.75 * last
        figure.add_annotation(
            x=point.kl, y=point.score, text=escaped(point.name), showarrow=False,
            xanchor="right" if left else "left", yanchor="top",
            xshift=-6 if left else 6, yshift=-4, font={"size": 11},
        )  # fmt: skip


def _named(points: Sequence[SweepPoint]) -> list[SweepPoint]:
    """The best points whose names have room: none close to that of a point with a higher score."""
    if len(points) < 2:
        return []
    wide, high = (np.ptp([getattr(point, name) for point in points]) for name in ("kl", "score"))
    kept: list[SweepPoint] = []
    for point in sorted(points, key=lambda point: -point.score):
        close = any(
            abs(point.kl - other.kl) < 0.2 * wide and abs(point.score - other.score) < 0.06 * high
            for other in kept
        )
        if point.best and not close:
            kept.append(point)
    return kept


def _seeds(point: SweepPoint) -> str:
    return f": mean of {len(point.rows)} seeds" if len(point.rows) > 1 else ""


def _goes_on(row: Mapping[str, Any]) -> str:
    share = row.get("listed/beyond") or 0.0
    return f": goes on after {MAX_WORDS} words in {share:.0%}" if share > LEFT_OUT else ""


def _loss(row: Mapping[str, Any]) -> str:
    """The loss, or the method if it is not DPO."""
    if row.get("method") not in (None, "dpo"):
        return row["method"]
    return row.get("loss") if isinstance(row.get("loss"), str) else row.get("method", "runs")


class SweepPage:
    """The figure of a sweep as one page that needs no network and may be written again and again.

    Args:
        configs: Configurations of all runs.
        path: The page.
    """

    def __init__(self, configs: Mapping[str, TrainConfig], path: Path):
        self.configs, self.path = configs, path

    @cached_property
    def theory(self) -> FrontierCurve | None:
        """The exact frontier, where it is known."""
        return _theory(list(self.configs.values()))

    def write(self, rows: Sequence[Mapping[str, Any]], *, going_on: bool = False) -> Path:
        """Write the page.

        Args:
            rows: Rows of the runs that are done.
            going_on: Whether others will follow: an open page then shows them by itself.

        Returns:
            `path`.
        """
        figure = sweep_figure(rows, self.theory)
        head = ""
        if going_on:
            figure.update_layout(title_text=f"{len(rows)} of {len(self.configs)} runs")
            head = f"<meta http-equiv='refresh' content='{REFRESH}'>"
        page = figure.to_html(include_plotlyjs=True, config=PLOTLY_CONFIG)
        head += content_policy(scripts_of(page))
        write_text(self.path, page.replace("<head>", f"<head>{head}", 1))
        return self.path


def _theory(configs: Sequence[TrainConfig]) -> FrontierCurve | None:
    """The frontier, if all runs share a model whose responses can be listed, and have a score."""
    if len({(config.model, config.data) for config in configs}) > 1:
        return None
    train, held_out = load_data(configs[0])
    model = load_model(configs[0].model, device="cpu")
    if train.reward_fn is None or not len(held_out) or not enumerable(model):
        return None
    try:
        prompts = held_out.prompts[:MOST_PROMPTS]
        return FrontierCurve.of(ResponseSpace.of(model, prompts, train.reward_fn).frontier)
    except ValueError:
        return None
