"""Interactive losses: their curves as settings change, and the effect of wrong labels on three."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go

from dpo_lab.analysis.label_noise import under_noise
from dpo_lab.models.response_space import ResponseSpace, RewardFit
from dpo_lab.objective.pair_logps import F_DIVERGENCES
from dpo_lab.objective.registry import LOSSES, SUMS, find_loss
from dpo_lab.ui.figures.losses import curve_traces, curves_spec, noise_spec
from dpo_lab.ui.figures.style import POLICY, TEXT
from dpo_lab.ui.html.output import bundle
from dpo_lab.ui.html.tables import escaped
from dpo_lab.ui.widgets.live import LiveFigure

WITH_REFERENCE = tuple(
    name
    for name in (*LOSSES, SUMS[0])
    if not (name in LOSSES and LOSSES[name].reference_free) and not find_loss(name).couples_pairs
)
"""Losses that can be drawn as a curve over the margin of one pair."""


class LossExplorer:
    """A loss beside DPO: its curve and its pull, as beta, smoothing and divergence change.

    Args:
        loss: The loss to show first, one of `WITH_REFERENCE`.
        beta: Initial value of the slider, from 0.03 to 3.

    Raises:
        ValueError: If the loss is none of them, or beta is outside the slider's range.

    Attributes:
        loss: Menu of the losses.
        beta: Slider of beta, for both curves.
        smoothing: Slider of label smoothing, enabled if the loss has it.
        divergence: Menu of the f-divergences, enabled if the loss has them.
        figure: The live figure.
        view: All of them as one widget.
    """

    def __init__(self, loss: str = "ipo", beta: float = 0.3):
        if loss not in WITH_REFERENCE:
            raise ValueError(
                f"loss={loss!r}: is not a curve over the margin of one pair. "
                f"Use one of {', '.join(WITH_REFERENCE)}."
            )
        if not 0.03 <= beta <= 3.2:
            raise ValueError(f"beta={beta!r}: the slider goes from 0.03 to 3. Start within that.")
        self.loss = widgets.Dropdown(options=WITH_REFERENCE, value=loss, description="loss")
        self.beta = widgets.FloatLogSlider(
            value=beta, min=-1.5, max=0.5, step=0.02, description="β", readout_format=".3g"
        )
        self.smoothing = widgets.FloatSlider(
            max=0.45, step=0.01, description="smoothing", readout_format=".2f"
        )
        self.divergence = widgets.Dropdown(options=F_DIVERGENCES, description="divergence")
        self.note = widgets.HTML()
        self.figure = LiveFigure(self._spec())
        controls = widgets.Box([self.loss, self.beta, self.smoothing, self.divergence])
        controls.layout = widgets.Layout(flex_flow="row wrap")
        self.view = widgets.VBox([controls, self.note, self.figure.view])
        self._explain()
        for control in (self.loss, self.beta, self.smoothing, self.divergence):
            control.observe(self._draw, "value")

    @property
    def options(self) -> dict[str, Any]:
        """The current values of the options that the loss takes."""
        taken = find_loss(self.loss.value).options
        chosen = {"label_smoothing": self.smoothing.value or taken.get("label_smoothing", 0.0)}
        chosen["f_divergence_type"] = self.divergence.value
        return {name: value for name, value in chosen.items() if name in taken}

    def _spec(self) -> dict[str, Any]:
        beta, plain = self.beta.value, {"color": TEXT, "width": 1.5, "dash": "5px,4px"}
        traces = curve_traces("sigmoid (DPO)", LOSSES["sigmoid"], beta, plain)
        loss, look = find_loss(self.loss.value), {"color": POLICY, "width": 2.5}
        traces += curve_traces(self.loss.value, loss, beta, look, **self.options)
        return curves_spec(traces, beta)

    def _draw(self, change: Mapping[str, Any]) -> None:
        self._explain()
        self.figure.draw(self._spec())

    def _explain(self) -> None:
        loss = find_loss(self.loss.value)
        self.smoothing.disabled = "label_smoothing" not in loss.options
        self.divergence.disabled = "f_divergence_type" not in loss.options
        drawn = "Drawn where scores differ by 1. " if loss.uses_scores else ""
        self.note.value = (
            f"<b>{escaped(loss.title)}</b>: <code>{escaped(loss.formula)}</code>. "
            f"{escaped(loss.citation)}. {drawn}"
            f"Logged rewards are {escaped(loss.rewards)}."
        )

    def _repr_mimebundle_(self, **options):
        return bundle(self.view, options, "A loss beside DPO: run this cell to move it.")


class NoiseExplorer:
    """A slider for the share of wrong labels: on release, three losses are trained and drawn.

    Args:
        world: Response space of `micro`.
        pairs: Pairs of each run.
        steps: Optimiser steps of each run.

    Attributes:
        found: Share of wrong labels to the reward fit of each loss.
        share: The slider.
        status: Progress message.
        figure: The live figure.
        view: All of them as one widget.
    """

    def __init__(self, world: ResponseSpace, pairs: int = 4000, steps: int = 150):
        self._world, self._size = world, {"pairs": pairs, "steps": steps}
        self.found: dict[float, dict[str, RewardFit]] = {}
        self.share = widgets.FloatSlider(
            max=0.45, step=0.05, description="wrong labels", readout_format=".0%",
            continuous_update=False, style={"description_width": "initial"},
        )  # fmt: skip
        self.status = widgets.HTML("Let go of the slider to train three policies there.")
        self.figure = LiveFigure(self._spec())
        self.view = widgets.VBox([widgets.HBox([self.share, self.status]), self.figure.view])
        self.share.observe(lambda change: self._visit_by_hand(change["new"]), "value")

    def visit(self, share: float) -> dict[str, RewardFit]:
        """Train with a share of wrong labels, unless that is already done, and draw the result.

        Args:
            share: In [0, 0.45].
        """
        share = round(share, 4)
        if share not in self.found:
            found = under_noise(self._world, share, **self._size)
            self.found = {**self.found, share: found}
            self.figure.draw(self._spec())
        return self.found[share]

    def picture(self) -> go.Figure:
        """The current figure, for pages without a kernel."""
        return go.Figure(self._spec())

    def _spec(self) -> dict[str, Any]:
        return noise_spec(self.found)

    def _visit_by_hand(self, share: float) -> None:
        self.status.value = f"training three policies with {share:.0%} wrong labels …"
        try:
            found = self.visit(share)
        except Exception as error:
            self.status.value = f"failed: {escaped(error)}"
            return
        slopes = ", ".join(f"{name} {fit.slope:.2f}" for name, fit in found.items())
        self.status.value = f"{share:.0%} wrong labels: {slopes}"

    def _repr_mimebundle_(self, **options):
        words = "A slider for wrong labels: run this cell to move it."
        return bundle(self.view, options, words)
