"""Figures of KL: estimators against the exact KL, and policies against the reward-KL frontier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from dpo_lab.analysis.frontier_curve import FrontierCurve
from dpo_lab.models.kl import MeasuredKL
from dpo_lab.objective.optimum import PolicyPoint
from dpo_lab.ui.figures.style import CHOSEN, POLICY, REJECTED, SYMBOLS, TEXT, THEORY, blank
from dpo_lab.ui.html.tables import escaped

_ESTIMATORS = {
    "per_token": ("per token (Rao-Blackwellised)", POLICY),
    "k1": ("log-ratio (k1)", CHOSEN),
    "k3": ("k3", REJECTED),
}
_SIDE = 1.06
"""Factor on the x axis between estimates at one sample size, which puts them side by side."""
_PLACES = ("bottom right", "bottom center", "middle right")
"""Label positions, one per group, so that labels of nearby policies do not overlap."""
_COLOURS = (POLICY, CHOSEN, REJECTED, "#E69F00", "#56B4E9", TEXT)


def estimators_figure(measured: Sequence[MeasuredKL], exact: float) -> go.Figure:
    """Three estimates of one KL against the number of samples, with standard errors.

    Args:
        measured: Estimates for the same policy, each from another number of its samples.
        exact: The exact KL on the same prompts, nats. The errors are those for these prompts alone,
            if each prompt has several samples.
    """
    figure = blank(420)
    for shift, (field, (name, colour)) in enumerate(_ESTIMATORS.items(), start=-1):
        estimates = [getattr(kl, field) for kl in measured]
        errors = [e.stderr if math.isnan(e.stderr_samples) else e.stderr_samples for e in estimates]
        figure.add_scatter(
            x=[estimate.n * _SIDE**shift for estimate in estimates],
            y=[estimate.mean for estimate in estimates],
            error_y={"array": errors, "width": 0, "thickness": 1.5},
            mode="markers",
            marker={"size": 8, "color": colour},
            name=name,
            customdata=[(e.n, error) for e, error in zip(estimates, errors, strict=True)],
            hovertemplate="%{y:.3f} ± %{customdata[1]:.3f} nats of %{customdata[0]} samples",
        )
    sizes = [kl.per_token.n for kl in measured]
    figure.add_scatter(
        x=[min(sizes) / 1.3, max(sizes) * 1.3],
        y=[exact, exact],
        mode="lines",
        line={"color": THEORY, "width": 2},
        name="exact, all responses listed",
        hoverinfo="skip",
    )
    figure.update_xaxes(
        title_text="samples of the policy",
        type="log",
        tickvals=sizes,
        ticktext=list(map(str, sizes)),
    )
    cut = max(kl.cut for kl in measured)
    at_least = f", at least: up to {cut:.0%} of answers cut" if cut else ""
    figure.update_yaxes(title_text=f"KL(policy ‖ reference) (nats), ± 1 s.e.{at_least}")
    return figure


def frontier_figure(
    theory: FrontierCurve,
    groups: Mapping[str, Mapping[str, PolicyPoint]],
    optima: Sequence[float] = (),
) -> go.Figure:
    """Policies by exact reward and exact KL, with the exact frontier behind.

    Args:
        theory: The frontier.
        groups: Legend name to the policies of a group: label to exact KL and reward.
        optima: Betas whose pi* is marked.
    """
    figure = blank(520)
    furthest = [point.kl for group in groups.values() for point in group.values()]
    furthest += [theory.star(beta).kl for beta in optima]
    curve = theory.up_to(1.08 * max(furthest))
    figure.add_scatter(
        x=curve[:, 0],
        y=curve[:, 1],
        name="exact frontier",
        line={"color": THEORY, "width": 2},
        hovertemplate="no policy of KL %{x:.2f} has more than %{y:.2f}<extra></extra>",
    )
    if optima:
        figure.add_scatter(
            x=[theory.star(beta).kl for beta in optima],
            y=[theory.star(beta).reward for beta in optima],
            text=[f"π* at β {beta:g}" for beta in optima],
            mode="markers+text",
            textposition="top left",
            textfont={"color": THEORY},
            marker={"symbol": "star", "size": 13, "color": THEORY},
            name="π*",
            hovertemplate="%{text}: KL %{x:.2f}, reward %{y:.2f}<extra></extra>",
        )
    for number, (name, group) in enumerate(groups.items()):
        points = list(group.values())
        figure.add_scatter(
            x=[point.kl for point in points],
            y=[point.reward for point in points],
            text=[escaped(label) for label in group],
            customdata=[point.gained for point in points],
            # The legend alone names a group of one point that is called like it.
            mode="markers" if list(group) == [name] else "markers+text",
            textposition=_PLACES[number % len(_PLACES)],
            marker={
                "symbol": SYMBOLS[number % len(SYMBOLS)],
                "size": 10,
                "color": _COLOURS[number % len(_COLOURS)],
            },
            textfont={"color": _COLOURS[number % len(_COLOURS)]},
            name=name,
            hovertemplate="%{text}: KL %{x:.2f}, reward %{y:.2f}, %{customdata:.0%} of what can be "
            "gained there<extra></extra>",
        )
    figure.update_xaxes(title_text="KL(policy ‖ reference) (nats)", rangemode="tozero")
    figure.update_yaxes(title_text="expected reward")
    figure.update_layout(hovermode="closest")
    return figure
