"""Figure of reward margins during training: a heat map over steps, and the share below 0."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from dpo_lab.analysis.margin_history import MarginHistory
from dpo_lab.ui.figures.style import POLICY, REJECTED, SMALL, TEXT, blank

_FADE = [[0, "rgba(40, 140, 210, 0)"], [1, "rgba(40, 140, 210, 1)"]]
"""From transparent to blue, so that an empty cell has the colour of the page."""
_ABOVE, _BELOW = (0.36, 1), (0, 0.26)


def margin_figure(history: MarginHistory, bins: int = 50) -> go.Figure:
    """Share of pairs by reward margin and step as a heat map, the share below 0 beneath.

    Args:
        history: Margins of a run that has started.
        bins: Number of margin bins, of equal width.
    """
    edges, counts = history.histogram(bins)
    pairs = history.reward_margins.shape[1]
    shares = (counts / pairs).numpy()
    steps = [str(step) for step in history.steps]
    # At the start all margins are in one cell; scaled to it, the others would have no colour.
    most = 1.1 * shares[-1].max()
    low, high = np.quantile(history.reward_margins.numpy(), (0.002, 0.998))
    figure = blank(520).update_layout(hovermode="closest")
    figure.add_heatmap(
        x=steps,
        y=((edges[:-1] + edges[1:]) / 2).numpy(),
        z=shares.T,
        zmin=0,
        zmax=most,
        colorscale=_FADE,
        colorbar={
            "title": {"text": "share of pairs", "side": "right", "font": SMALL},
            "tickfont": SMALL,
            "tickformat": ".0%",
            "len": 0.64,
            "y": 1,
            "yanchor": "top",
            "outlinewidth": 0,
            "thickness": 12,
        },
        hovertemplate="step %{x}, margin about %{y:.2f}: %{z:.1%} of the pairs<extra></extra>",
    )
    middle = np.median(history.reward_margins.numpy(), axis=1)
    look = {"color": POLICY, "width": 2}
    figure.add_scatter(x=steps, y=middle, name="median", line=look, mode="lines+markers")
    figure.add_hline(y=0, line={"color": TEXT, "width": 1.2, "dash": "5px,4px"})
    below = history.share_below_zero.numpy()
    figure.add_scatter(
        x=steps,
        y=below,
        name="share below 0: label and model disagree",
        line={"color": REJECTED, "width": 2},
        mode="lines+markers",
        xaxis="x2",
        yaxis="y2",
        hovertemplate="step %{x}: %{y:.1%} of the pairs<extra></extra>",
    )
    top = 1.25 * max(0.04, below.max())
    figure.update_layout(
        xaxis={"type": "category", "anchor": "y", "showticklabels": False, "title.text": ""},
        yaxis={"domain": _ABOVE, "title.text": "reward margin (nats)", "range": [low, high]},
        xaxis2={"type": "category", "anchor": "y2", "title.text": "optimiser step", "matches": "x"},
        yaxis2={"domain": _BELOW, "anchor": "x2", "tickformat": ".0%", "range": [0, top]}
        | {"title.text": "below 0", "nticks": 4},
    )
    note = f"{pairs:,} pairs; dashed: 0, where label and model part ways"
    return figure.update_layout(
        annotations=[
            {"text": note, "xref": "paper", "yref": "paper", "x": 1, "y": 1.02, "xanchor": "right"}
        ]
    )
