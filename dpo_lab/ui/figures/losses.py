"""Figures of losses: curves, gradient directions, displacement, label noise, answer length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from dpo_lab.models.response_space import RewardFit
from dpo_lab.objective.pair_logps import PairLogps
from dpo_lab.objective.registry import Loss, find_loss, loss_and_grads
from dpo_lab.ui.figures.style import (
    CHOSEN,
    LEGEND,
    POLICY,
    REFERENCE,
    REJECTED,
    STYLE,
    TEXT,
    THEORY,
    blank,
)
from dpo_lab.ui.html.tables import escaped

REACH = 15.0
"""Range of the curves on either side of margin 0, nats."""
PALETTE = (POLICY, CHOSEN, REJECTED, THEORY, "#E69F00", "#56B4E9", "#8c6bb1", TEXT)
_TOKENS = 5.0
_LEFT, _RIGHT = (0, 0.46), (0.56, 1)
_CONTENDERS = {
    "plain": (TEXT, "circle", "DPO"),
    "conservative": (CHOSEN, "diamond", "conservative DPO"),
    "robust": (POLICY, "square", "robust DPO"),
}


def pairs_at(chosen: torch.Tensor, rejected: torch.Tensor) -> PairLogps:
    """Pairs with these log-ratios; each answer has five tokens, and -40 nats by the reference.

    Their scores differ by 1.
    """
    reference, tokens = torch.full_like(chosen, -40.0), torch.full_like(chosen, _TOKENS)
    logps = chosen - 40, rejected - 40, reference, reference
    return PairLogps(*logps, tokens, tokens, score_margins=torch.ones_like(chosen))


def curve_traces(name: str, loss: Loss, beta: float, look: dict, **options: Any) -> list[dict]:
    """Loss and pull over the margin, as two traces: left and right panel of `curves_spec`.

    Half of the margin comes from the chosen answer's gain, half from the rejected answer's loss.
    To make losses in different units comparable, each is scaled to pull as hard at margin 0 as DPO
    does; a loss that does not pull there is not scaled.
    """
    margins = torch.linspace(-REACH, REACH, 121, dtype=torch.float64)
    losses, slopes = loss_and_grads(loss, pairs_at(margins / 2, -margins / 2), beta, **options)
    pull = (slopes[1] - slopes[0]) / (2 * beta)
    unit = 2 * pull[60] if pull[60] > 0 else 1
    values = (losses - losses[60]) / unit
    line = {"type": "scatter", "mode": "lines", "name": name, "x": margins.numpy()}
    hover = "%{y:.3g} at %{x:.3g} nats"
    return [
        line | {"y": values.numpy(), "line": look, "hovertemplate": hover},
        line
        | {"y": (pull / unit).numpy(), "line": look, "xaxis": "x2", "yaxis": "y2"}
        | {"hovertemplate": hover, "showlegend": False},
    ]


def curves_spec(traces: list[dict], beta: float) -> dict[str, Any]:
    """Data and layout of two panels: the loss, and how hard it pulls the two answers apart."""
    heads = (
        (_LEFT, "Loss", "above its value at margin 0"),
        (_RIGHT, "Pull on the pair", "DPO: sigmoid(−β × margin)"),
    )
    place = {"xref": "paper", "yref": "paper", "y": 1, "yshift": 44, "xanchor": "left"}
    place |= {"align": "left", "yanchor": "bottom", "showarrow": False}
    axis = {"title.text": f"margin (nats), β = {beta:.3g}", "range": [-REACH, REACH]}
    layout = {
        "template": {"layout": STYLE},
        "height": 440,
        "hovermode": "closest",
        "margin": {"l": 56, "r": 16, "t": 104, "b": 50},
        "legend": LEGEND | {"x": 0, "y": 1.01, "yanchor": "bottom"},
        "xaxis": axis | {"domain": _LEFT},
        "yaxis": {"range": [-2.2, 5.2], "title.text": "loss, scaled alike at 0"},
        "xaxis2": axis | {"domain": _RIGHT, "anchor": "y2"},
        "yaxis2": {"range": [-0.35, 1.6], "anchor": "x2", "title.text": "pull, ½ at margin 0"},
        "annotations": [
            place | {"x": x[0], "text": f"<b style='font-size:14px'>{head}</b><br>{words}"}
            for x, head, words in heads
        ],
    }
    return {"data": traces, "layout": layout}


def loss_curves_figure(names: Sequence[str], beta: float) -> go.Figure:
    """Losses over the margin, and how hard each pulls the two answers of a pair apart.

    Args:
        names: Losses or weighted sums, each with a reference.
        beta: Beta of all of them.
    """
    traces = []
    for number, name in enumerate(names):
        look = {"color": PALETTE[number % len(PALETTE)], "width": 2}
        look["dash"] = "solid" if number < 4 else "6px,3px"
        traces += curve_traces(escaped(name), find_loss(name), beta, look)
    return go.Figure(curves_spec(traces, beta))


def push_figure(names: Sequence[str], beta: float = 1.0) -> go.Figure:
    """Which way each loss pushes a pair, over a grid of chosen and rejected rewards.

    Args:
        names: Losses or weighted sums.
        beta: Beta of all of them.

    Returns:
        One panel per loss: chosen reward to the right, rejected reward upwards; arrows along the
        negative gradient; blue where the chosen answer is raised, orange where it is lowered.
    """
    columns = 4
    rows = -(-len(names) // columns)
    figure = make_subplots(
        rows, columns, subplot_titles=[f"<b>{escaped(name)}</b>" for name in names],
        shared_xaxes=True, shared_yaxes=True, horizontal_spacing=0.03, vertical_spacing=0.12,
    )  # fmt: skip
    for number, name in enumerate(names):
        at = {"row": number // columns + 1, "col": number % columns + 1}
        figure.add_trace(_field(find_loss(name), beta), **at)
        figure.add_trace(_arrows(find_loss(name), beta), **at)
    figure.update_layout(template={"layout": STYLE}, height=110 + 250 * rows, hovermode="closest")
    figure.update_layout(margin={"l": 64, "r": 16, "t": 48, "b": 56}, showlegend=False)
    figure.update_annotations(yshift=4)
    figure.update_xaxes(range=[-3.2, 3.2], tickvals=[-2, 0, 2], title_text="")
    figure.update_yaxes(range=[-3.2, 3.2], tickvals=[-2, 0, 2])
    figure.update_xaxes(title_text="chosen reward", row=rows)
    figure.update_yaxes(title_text="rejected reward", col=1)
    return figure


def _pushes(loss: Loss, beta: float, ticks: torch.Tensor) -> tuple[np.ndarray, ...]:
    """Rewards on a grid, and the push on each side, scaled to a largest push of 1."""
    chosen, rejected = torch.cartesian_prod(ticks, ticks).T
    slopes = -loss_and_grads(loss, pairs_at(chosen / beta, rejected / beta), beta)[1]
    scale = slopes.norm(dim=0).max().clamp_min(1e-9)
    return tuple(part.numpy() for part in (chosen, rejected, *(slopes / scale)))


def _field(loss: Loss, beta: float) -> go.Heatmap:
    ticks = torch.linspace(-3.2, 3.2, 25)
    *_, raised, _ = _pushes(loss, beta, ticks)
    colours = [[0, REJECTED], [0.5, "rgba(128, 128, 128, 0)"], [1, CHOSEN]]
    return go.Heatmap(
        x=ticks.numpy(), y=ticks.numpy(), z=np.tanh(2 * raised).reshape(25, 25).T,
        zmin=-1.6, zmax=1.6, colorscale=colours, showscale=False, zsmooth="best", hoverinfo="skip",
    )  # fmt: skip


def _arrows(loss: Loss, beta: float) -> go.Scatter:
    x, y, right, up = _pushes(loss, beta, torch.linspace(-2.7, 2.7, 7))
    length = np.hypot(right, up)
    # The square root keeps weak pushes visible beside strong ones.
    factor = 0.75 * np.sqrt(length) / np.maximum(length, 1e-9)
    gap = np.full_like(x, np.nan)
    points = np.stack([x, x + factor * right, gap]), np.stack([y, y + factor * up, gap])
    heads = np.where(length > 1e-3, 7, 0)
    sizes = np.stack([np.zeros_like(heads), heads, np.zeros_like(heads)]).T.flatten()
    words = "chosen %{customdata[0]:+.2f}, rejected %{customdata[1]:+.2f}<extra></extra>"
    return go.Scatter(
        x=points[0].T.flatten(), y=points[1].T.flatten(), mode="lines+markers",
        line={"color": TEXT, "width": 1.2},
        marker={"symbol": "arrow", "angleref": "previous", "size": sizes, "color": TEXT},
        customdata=np.repeat(np.stack([right, up]).T, 3, axis=0), hovertemplate=words,
    )  # fmt: skip


def displacement_figure(drifts: Mapping[str, tuple[float, float]]) -> go.Figure:
    """Mean log-ratio of chosen and rejected answers after runs under several losses.

    Args:
        drifts: Name of a loss to the two means, nats, in drawing order.
    """
    figure = blank(90 + 30 * len(drifts))
    names = [escaped(name) for name in reversed(drifts)]
    for index, (name, colour) in enumerate((("chosen", CHOSEN), ("rejected", REJECTED))):
        figure.add_bar(
            x=[pair[index] for pair in reversed(drifts.values())], y=names, orientation="h",
            name=name, marker={"color": colour}, hovertemplate="%{x:.2f} nats<extra>%{y}</extra>",
        )  # fmt: skip
    figure.update_layout(bargap=0.25, hovermode="closest", margin={"l": 150})
    figure.update_layout(legend={"traceorder": "normal"})
    figure.update_xaxes(title_text="mean log-ratio to the reference (nats)", zeroline=True)
    figure.update_yaxes(showgrid=False, nticks=len(names) + 1, ticksuffix=" ")
    return figure


def noise_spec(found: Mapping[float, Mapping[str, RewardFit]]) -> dict[str, Any]:
    """Data and layout: share of the true reward recovered, against the share of wrong labels.

    Args:
        found: Share of flipped labels to the result of `under_noise`.
    """
    shares = sorted(found)
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": np.array(shares, dtype=float),
            "y": np.array([found[share][name].slope for share in shares]),
            "customdata": np.array([found[share][name].correlation for share in shares]),
            "name": title,
            "line": {"color": colour, "width": 2},
            "marker": {"size": 9, "symbol": symbol},
            "hovertemplate": "%{y:.2f} at %{x:.0%}, correlation %{customdata:.2f}",
        }
        for name, (colour, symbol, title) in _CONTENDERS.items()
    ]
    layout = {
        "template": {"layout": STYLE},
        "height": 400,
        "hovermode": "closest",
        "margin": {"l": 64, "r": 20, "t": 56, "b": 50},
        "legend": LEGEND | {"y": 1.02, "yanchor": "bottom"},
        "xaxis": {
            "title.text": "labels turned around",
            "tickformat": ".0%",
            "range": [-0.02, 0.47],
        },
        "yaxis": {"title.text": "implicit reward per unit of true reward", "range": [0, 1.05]},
    }
    return {"data": traces, "layout": layout}


def length_figure(curves: Mapping[str, Sequence[float]], lengths: Sequence[int]) -> go.Figure:
    """Loss of a pair against the length of its chosen answer.

    Args:
        curves: Name to losses, nats, one per length.
        lengths: Numbers of tokens of the chosen answer.
    """
    figure = blank(400)
    for number, (name, values) in enumerate(curves.items()):
        look = {"color": (TEXT, CHOSEN, "#56B4E9", POLICY, REFERENCE)[number % 5], "width": 2}
        figure.add_scatter(
            x=np.asarray(lengths), y=np.asarray(values), mode="lines", name=escaped(name),
            line=look | {"dash": "solid" if number < 4 else "6px,3px"},
            hovertemplate="%{y:.3f} at %{x} tokens",
        )  # fmt: skip
    figure.update_xaxes(title_text="tokens of the chosen answer (the rejected has 10)")
    figure.update_yaxes(title_text="loss of the pair (nats)")
    return figure
