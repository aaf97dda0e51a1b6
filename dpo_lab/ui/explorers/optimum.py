"""Interactive optimum: the likeliest answers of pi*, and its place on the frontier, at any beta."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
from torch import Tensor

from dpo_lab.analysis.frontier_curve import FrontierCurve
from dpo_lab.models.response_space import ResponseSpace
from dpo_lab.objective.optimum import (
    Frontier,
    exact_kl,
    expected_reward,
    log_partition,
    optimal_logps,
)
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
    line,
)
from dpo_lab.ui.html.output import bundle
from dpo_lab.ui.html.tables import escaped, number
from dpo_lab.ui.widgets.live import LiveFigure

BARS, OF_REFERENCE = 15, 10
"""Number of responses with a bar, and how many of them are the reference's likeliest."""
LIKELY_AT = (1.0, 0.5, 0.3, 0.1, 0.03)
"""Betas at which the likeliest responses of pi* get the other bars."""
_SHARES, _KLS = (0.05, 0.1, 0.25, 0.5, 1.0), (0.5, 2.0, 8.0, 30.0)
"""Possible ends of the axes of shares and of KL: few, so that the axes seldom jump."""
_LEFT, _RIGHT = (0, 0.36), (0.5, 1)
_KL = "KL(π ‖ reference) (nats)"


@dataclass(frozen=True, eq=False)
class _Scene:
    """One prompt of a world, with everything that does not depend on beta."""

    frontier: Frontier
    responses: tuple[str, ...]

    @classmethod
    def of(cls, world: ResponseSpace, prompt: str) -> _Scene:
        if prompt not in world.prompts:
            raise ValueError(f"prompt={prompt!r}: is not in this world. Take one of its prompts.")
        row = [world.prompts.index(prompt)]
        return cls(Frontier(world.reference_logps[row], world.rewards[row]), world.responses)

    @cached_property
    def theory(self) -> FrontierCurve:
        return FrontierCurve.of(self.frontier)

    @cached_property
    def shown(self) -> list[int]:
        """Responses with a bar: the likeliest of reference and pi*, lowest reward first."""
        ranked = [self._policy(beta).topk(BARS).indices.tolist() for beta in LIKELY_AT]
        in_turn = [index for rank in zip(*ranked, strict=True) for index in rank]
        first = self._policy(math.inf).topk(OF_REFERENCE).indices.tolist()
        kept = list(dict.fromkeys([*first, *in_turn]))[:BARS]
        return sorted(kept, key=lambda index: self.frontier.rewards[0, index].item())

    def spec(self, beta: float) -> dict[str, Any]:
        """Data and layout: the same traces in the same order at every beta."""
        before, after = (self._policy(b).exp()[self.shown].numpy() for b in (math.inf, beta))
        curve, star = self.theory.curve, self.theory.star(beta)
        tangent = star.reward - beta * star.kl + beta * np.array([0, curve[-1, 0]])
        bar = {"type": "bar", "orientation": "h", "y": [self._name(i) for i in self.shown]}
        bar["hovertemplate"] = "%{x:.2%}<extra>%{y}</extra>"
        path = {"type": "scatter", "mode": "lines", "xaxis": "x2", "yaxis": "y2"}
        path |= {"legend": "legend2", "hovertemplate": "KL %{x:.3g} nats, reward %{y:.3g}"}
        dot, dashed = path | {"mode": "markers"}, {"color": TEXT, "width": 1.3, "dash": "5px,4px"}
        purple, grey = {"color": THEORY}, {"color": REFERENCE}
        big = purple | {"size": 15, "symbol": "star"}
        traces = [
            bar | {"x": after, "name": "π*", "marker": purple},
            bar | {"x": before, "name": "reference", "marker": grey},
            path | {"x": curve[:, 0], "y": curve[:, 1], "name": "exact frontier", "line": purple},
            path | {"x": curve[[0, -1], 0], "y": tangent, "name": "equal J", "line": dashed},
            dot | {"x": [0], "y": curve[:1, 1], "name": "reference", "marker": grey | {"size": 10}},
            dot | {"x": [star.kl], "y": [star.reward], "name": "π*", "marker": big},
        ]
        return {"data": traces, "layout": self._layout(beta, after)}

    def _layout(self, beta: float, shares: np.ndarray) -> dict[str, Any]:
        end = next(end for end in _SHARES if end >= min(shares.max(), 1))
        furthest, start = self.theory.curve[-1, 0], self.theory.curve[0, 1]
        reach = min([furthest, *(kl for kl in _KLS if kl > 1.5 * self.theory.star(beta).kl)])
        span = self.theory.reward_at(reach) - start
        covered = f"share of all answers; these are {shares.sum():.0%} of π*"
        heads = (
            ("Share of an answer", "its reward in brackets, the best on top"),
            ("Reward against KL", "dashed, slope β: the same J everywhere, its value at KL 0"),
        )
        place = {"xref": "paper", "yref": "paper", "y": 1, "yshift": 34}
        place |= {"xanchor": "left", "align": "left"}
        head = f"<b style='font-size:14px'>%s, β = {beta:.3g}</b><br>%s"
        columns = zip((_LEFT, _RIGHT), heads, strict=True)
        beneath = LEGEND | {"y": 1.01, "yanchor": "bottom"}
        right = {"domain": _RIGHT, "anchor": "y2", "title.text": _KL}
        upward = {"range": [start - 0.06 * span, start + 1.08 * span], "anchor": "x2"}
        return {
            "template": {"layout": STYLE},
            "height": 540,
            "hovermode": "closest",
            "margin": {"l": 170, "r": 16, "t": 96, "b": 50},
            "xaxis": {"domain": _LEFT, "range": [0, end], "tickformat": ".0%"}
            | {"title.text": covered},
            "yaxis": {"ticksuffix": " ", "nticks": BARS + 1, "showgrid": False},
            "xaxis2": right | {"range": [-0.02 * reach, reach]},
            "yaxis2": upward | {"title.text": "expected reward"},
            "legend": beneath | {"x": _LEFT[0], "traceorder": "reversed"},
            "legend2": beneath | {"x": _RIGHT[0]},
            "annotations": [place | {"x": x[0], "text": head % words} for x, words in columns],
        }

    def _policy(self, beta: float) -> Tensor:
        logps, rewards = self.frontier.reference_logps[0], self.frontier.rewards[0]
        return logps if math.isinf(beta) else optimal_logps(logps, rewards, beta)

    def _name(self, index: int) -> str:
        reward = number(self.frontier.rewards[0, index].item())
        return f"{escaped(self.responses[index]) or '(empty)'} ({reward})"


def optimum_figure(world: ResponseSpace, prompt: str, beta: float) -> go.Figure:
    """Answers of pi* at one beta beside those of the reference, and pi* on the frontier.

    Args:
        world: Prompts with all their responses.
        prompt: One of its prompts.
        beta: Weight of the KL, > 0.

    Returns:
        Left: probabilities of the same responses at any beta. Right: the exact reward-KL frontier
        with pi* on it, and its tangent there, of slope beta: all points of it have equal J.

    Raises:
        ValueError: If the world has no such prompt.

    Source:
        Rafailov et al. 2023, Eq. 3 and 4.
    """
    return go.Figure(_Scene.of(world, prompt).spec(beta))


class OptimumExplorer:
    """`optimum_figure` with a slider for beta.

    Args:
        world: Prompts with all their responses.
        prompt: One of its prompts.
        beta: Initial value of the slider, from 0.01 to 10.

    Attributes:
        beta: The slider.
        figure: The live figure.
        view: Both as one widget.
    """

    def __init__(self, world: ResponseSpace, prompt: str, beta: float = 0.3):
        self._scene = _Scene.of(world, prompt)
        self.beta = widgets.FloatLogSlider(
            value=beta, min=-2, max=1, step=0.02, description="β", readout_format=".3g"
        )
        self.beta.layout.width = "min(520px, 95%)"
        self.figure = LiveFigure(self._scene.spec(beta))
        self.view = widgets.VBox([self.beta, self.figure.view])
        self.beta.observe(self._draw, "value")

    def _draw(self, change: Mapping[str, Any]) -> None:
        self.figure.draw(self._scene.spec(change["new"]))

    def _repr_mimebundle_(self, **options):
        return bundle(self.view, options, "A slider for β: run this cell to drag it.")


def objective_figure(world: ResponseSpace, prompt: str, beta: float) -> go.Figure:
    """J of policies tilted by the reward, `pi ~ pi_ref exp(s r / beta)`.

    Args:
        world: Prompts with all their responses.
        prompt: One of its prompts.
        beta: Weight of the KL, > 0.

    Returns:
        Expected reward, cost of the KL and their difference J, over s; the reference is at s = 0,
        pi* at s = 1.

    Source:
        Rafailov et al. 2023, Eq. 3 and 4.
    """
    frontier = _Scene.of(world, prompt).frontier
    reference, rewards = frontier.reference_logps[0], frontier.rewards[0]
    tilts = np.linspace(0, 2, 41)
    policies = [(reference + tilt * rewards / beta).log_softmax(-1) for tilt in tilts]
    gained = np.array([expected_reward(policy, rewards).item() for policy in policies])
    paid = np.array([beta * exact_kl(policy, reference).item() for policy in policies])
    best = beta * log_partition(reference, rewards, beta).item()
    figure = blank(400)
    line(figure, [0, 2], [best, best], "β log Z(x)", TEXT, dash="5px,4px")
    line(figure, tilts, gained, "expected reward", CHOSEN)
    line(figure, tilts, paid, "β × KL", REJECTED)
    line(figure, tilts, gained - paid, "J, their difference", POLICY)
    star = {"symbol": "star", "size": 15, "color": THEORY}
    figure.add_scatter(x=[1], y=[best], mode="markers", marker=star, name="π*")
    figure.update_traces(hovertemplate="%{y:.3g} at s = %{x:.3g}")
    figure.update_xaxes(title_text=f"tilt s of π ∝ π_ref exp(s · r / β), β = {beta:.3g}")
    figure.update_yaxes(title_text="in the unit of the reward")
    return figure
