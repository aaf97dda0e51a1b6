"""A sweep as one figure: what every run gained for its KL, with the exact frontier behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from dpo_lab.analysis.frontier_curve import LISTED, SAMPLED, FrontierCurve
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


def sweep_figure(
    rows: Sequence[Mapping[str, Any]], theory: FrontierCurve | None = None
) -> go.Figure:
    """Score of each run against its KL, with standard errors; coloured by beta, shaped by loss.

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
    axis = "KL(policy ‖ reference) (nats)"
    figure.update_yaxes(title_text="score" if scored else "held-out pair accuracy")
    if key in LISTED:
        axis += f"; both exact, in answers of at most {MAX_WORDS} words"
        if long := sum(bool(_goes_on(row)) for row in rows):
            axis += f" ({long} of {len(rows)} points go on in more than {LEFT_OUT:.0%} of theirs)"
    elif cut := max((row.get("kl/cut") or 0.0 for row in rows), default=0.0):
        axis += f", at least: up to {cut:.0%} of answers cut"
    figure.update_xaxes(title_text=axis, rangemode="tozero")
    if theory is not None and rows and scored:
        reach = 1.1 * max(row[kl] for row in rows)
        curve = theory.up_to(max(reach, 0.1))
        line = {"color": THEORY, "width": 2}
        figure.add_scatter(x=curve[:, 0], y=curve[:, 1], name="exact frontier", line=line)
    betas = sorted({row["beta"] for row in rows if "beta" in row})
    places = np.linspace(0.05, 0.95, max(len(betas), 1)).tolist()
    colours = dict(zip(betas, sample_colorscale(SCALE, places), strict=False))
    if any("beta" not in row for row in rows):
        colours[None] = TEXT
    symbols = dict(zip(sorted({_loss(row) for row in rows}), cycle(SYMBOLS), strict=False))
    for beta, colour in colours.items():
        some = [row for row in rows if row.get("beta") == beta]
        bars = {"width": 0, "thickness": 1, "color": colour}
        errors = [[row.get(f"{name}_stderr") for row in some] for name in (kl, key)]
        figure.add_scatter(
            x=[row[kl] for row in some],
            y=[row[key] for row in some],
            error_x={"array": errors[0]} | bars,
            error_y={"array": errors[1]} | bars,
            text=[escaped(row["run"]) + _goes_on(row) for row in some],
            hovertemplate="%{text}<br>KL %{x:.3g}, %{y:.3g}<extra></extra>",
            mode="markers",
            marker={"size": 9, "color": colour, "symbol": [symbols[_loss(row)] for row in some]},
            name=f"β {beta:g}" if beta is not None else "no β" if betas else "runs",
        )
    if len(symbols) > 1:
        for loss, symbol in symbols.items():
            marker = {"size": 9, "color": TEXT, "symbol": f"{symbol}-open"}
            figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, name=loss)
    return figure


def _goes_on(row: Mapping[str, Any]) -> str:
    share = row.get("listed/beyond") or 0.0
    return f": goes on after {MAX_WORDS} words in {share:.0%}" if share > LEFT_OUT else ""


def _loss(row: Mapping[str, Any]) -> str:
    return row.get("loss") if isinstance(row.get("loss"), str) else "runs"


def write_sweep_page(
    configs: Mapping[str, TrainConfig], rows: Sequence[Mapping[str, Any]], path: Path
) -> Path:
    """Write the figure as one page that needs no network.

    Returns:
        `path`.
    """
    theory = _theory(list(configs.values()))
    page = sweep_figure(rows, theory).to_html(include_plotlyjs=True, config=PLOTLY_CONFIG)
    write_text(path, page.replace("<head>", f"<head>{content_policy(scripts_of(page))}", 1))
    return path


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
