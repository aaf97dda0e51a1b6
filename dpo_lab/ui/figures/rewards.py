"""Figures of rewards: Bradley-Terry preferences, calibration, learned rewards against true ones."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go
import torch
from torch import Tensor

from dpo_lab.objective.bradley_terry import Calibration, preference_probability
from dpo_lab.ui.figures.style import CHOSEN, POLICY, REFERENCE, REJECTED, THEORY, blank, line
from dpo_lab.ui.html.tables import escaped


def preference_figure(differences: Mapping[str, float]) -> go.Figure:
    """The Bradley-Terry probability against the difference of two rewards.

    Args:
        differences: Label of a pair to `r(x, y_a) - r(x, y_b)`; marked on the curve.

    Source:
        Rafailov et al. 2023, Eq. 1.
    """
    points = torch.tensor(list(differences.values()), dtype=torch.float64)
    reach = max(6.0, 1.2 * points.abs().max().item())
    grid = torch.linspace(-reach, reach, 201, dtype=torch.float64)
    figure = blank(360)
    curve = preference_probability(grid, torch.zeros_like(grid))
    line(figure, grid, curve, "σ(difference)", THEORY)
    figure.add_scatter(
        x=points.numpy(),
        y=preference_probability(points, torch.zeros_like(points)).numpy(),
        text=[escaped(label) for label in differences],
        mode="markers+text",
        textposition=["top left" if point > 1 else "bottom right" for point in points],
        textfont={"color": CHOSEN},
        cliponaxis=False,
        marker={"size": 10, "color": CHOSEN},
        name="pairs",
        hovertemplate="difference %{x:.3g}: preferred with %{y:.1%}<extra></extra>",
    )
    figure.update_xaxes(title_text="reward of the first less reward of the second (nats)")
    figure.update_yaxes(title_text="first is preferred", tickformat=".0%", range=[-0.04, 1.1])
    return figure


def calibration_figure(found: Calibration) -> go.Figure:
    """Stated confidence against observed accuracy, with the diagonal of perfect calibration.

    Args:
        found: From `dpo_lab.objective.calibration`; bars are one standard error of a share.
    """
    shares, pairs = found.accuracy, found.pairs
    errors = (shares * (1 - shares) / pairs).sqrt()
    figure = blank(380)
    line(figure, [0.5, 1], [0.5, 1], "as often right as it says", REFERENCE, dash="5px,4px")
    figure.add_scatter(
        x=found.confidence.numpy(),
        y=shares.numpy(),
        error_y={"array": errors.numpy(), "width": 0, "thickness": 1.5},
        customdata=pairs.numpy(),
        mode="markers",
        marker={"size": 9, "color": POLICY},
        name="reward model, held-out pairs, ±1 s.e.",
        hovertemplate="says %{x:.0%}, right in %{y:.0%} of %{customdata} pairs<extra></extra>",
    )
    figure.update_xaxes(title_text="stated confidence", tickformat=".0%", range=[0.49, 1.01])
    figure.update_yaxes(title_text="share of pairs ranked right", tickformat=".0%")
    return figure


def rewards_figure(rewards: Mapping[str, tuple[Tensor, Tensor]], found_as: str) -> go.Figure:
    """Learned rewards against the true ones, by group.

    Args:
        rewards: Name of a group to true and learned rewards, each `(responses,)`.
        found_as: Axis title for the learned rewards.
    """
    figure = blank(400)
    symbols, colours = ("circle", "diamond", "square", "x"), (POLICY, THEORY, CHOSEN, REJECTED)
    for index, (name, (true, learned)) in enumerate(rewards.items()):
        figure.add_scatter(
            x=true.numpy(),
            y=learned.numpy(),
            mode="markers",
            marker={"size": 6, "opacity": 0.7, "symbol": symbols[index % 4]}
            | {"color": colours[index % 4]},
            name=escaped(name),
            hovertemplate="true %{x:.3g}, found %{y:.3g}",
        )
    figure.update_layout(hovermode="closest", showlegend=True)
    figure.update_xaxes(title_text="true reward")
    figure.update_yaxes(title_text=escaped(found_as))
    return figure
