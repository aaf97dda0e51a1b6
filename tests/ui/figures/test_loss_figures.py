"""Curves, pushes and explorers of the losses show what the losses are."""

from __future__ import annotations

import html
import math

import numpy as np
import plotly.graph_objects as go
import pytest

from dpo_lab.models.response_space import RewardFit
from dpo_lab.objective.registry import LOSSES, SUMS
from dpo_lab.ui.explorers import losses as loss_explorers
from dpo_lab.ui.explorers.losses import WITH_REFERENCE, LossExplorer, NoiseExplorer
from dpo_lab.ui.figures.losses import (
    displacement_figure,
    length_figure,
    loss_curves_figure,
    push_figure,
)
from dpo_lab.ui.widgets.live import LiveFigure

HOSTILE = "<img src=x onerror=alert(1)>"


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_curves_are_the_loss_and_its_weight() -> None:
    figure = loss_curves_figure(["sigmoid", "ipo"], beta=0.3)
    loss, pull, ipo_loss, ipo_pull = figure.data
    x = loss.x
    np.testing.assert_allclose(loss.y, -np.log(sigmoid(0.3 * x)) - math.log(2), atol=1e-12)
    np.testing.assert_allclose(pull.y, sigmoid(-0.3 * x), atol=1e-12)
    # IPO, scaled to a pull of 1/2 at margin 0: its pull is a line through 0 at 1 / (2 beta).
    np.testing.assert_allclose(ipo_pull.y, 0.5 - 0.3 * x, atol=1e-9)
    assert abs(np.interp(1 / 0.6, x, ipo_pull.y)) < 1e-9
    # The left panel's slope is the right panel's height, with beta.
    slopes = np.gradient(ipo_loss.y, x)[1:-1]
    np.testing.assert_allclose(slopes, -0.3 * ipo_pull.y[1:-1], atol=1e-9)


def test_pushes_are_the_negative_gradient() -> None:
    figure = push_figure(["nca_pair", "apo_down", "sigmoid"])
    assert [note.text for note in figure.layout.annotations] == [
        "<b>nca_pair</b>", "<b>apo_down</b>", "<b>sigmoid</b>",
    ]  # fmt: skip
    field, arrows = figure.data[0], figure.data[1]
    # NCA raises a chosen answer below a reward of ln 2 and lowers it above.
    clear = np.abs(field.x - math.log(2)) > 0.2
    expected = np.sign(math.log(2) - field.x[clear])
    assert (np.sign(field.z[:, clear]) == expected).all()
    x, y = np.reshape(arrows.x, (-1, 3)), np.reshape(arrows.y, (-1, 3))
    moved = x[:, 1] - x[:, 0], y[:, 1] - y[:, 0]
    expected = sigmoid(-x[:, 0]) / 2 + (sigmoid(-x[:, 0]) - sigmoid(x[:, 0])) / 2
    expected, rejected = expected, -sigmoid(y[:, 0]) / 2
    np.testing.assert_allclose(moved[0] * rejected, moved[1] * expected, atol=1e-6)
    assert (moved[1] < 0).all()


def test_every_offered_loss_can_be_explored_with_the_options_it_takes() -> None:
    explorer = LossExplorer()
    before = [np.array(trace.y) for trace in explorer.figure.data]
    for name in WITH_REFERENCE:
        explorer.loss.value = name
        assert LOSSES.get(name, LOSSES["sigmoid"]).citation.split(",")[0] in html.unescape(
            explorer.note.value
        )
        assert all(np.isfinite(trace.y).all() for trace in explorer.figure.data)
    explorer.loss.value = "sigmoid"
    assert not explorer.smoothing.disabled and not explorer.divergence.disabled
    explorer.smoothing.value = 0.2
    best = math.log(0.8 / 0.2) / explorer.beta.value
    _, _, smooth, pull = explorer.figure.data
    assert smooth.x[np.argmin(smooth.y)] == pytest.approx(best, abs=0.25)
    assert np.interp(best, pull.x, pull.y) == pytest.approx(0, abs=0.01)
    explorer.divergence.value = "forward_kl"
    assert explorer.options == {"label_smoothing": 0.2, "f_divergence_type": "forward_kl"}
    np.testing.assert_array_equal(explorer.figure.data[0].y, before[0])
    explorer.beta.value = 1.0
    assert not np.array_equal(explorer.figure.data[0].y, before[0])
    explorer.loss.value = "nca_pair"
    assert explorer.smoothing.disabled and explorer.divergence.disabled
    assert explorer.options == {}
    bundle = explorer._repr_mimebundle_()
    assert "run this cell" in str(bundle)


def test_what_is_not_a_curve_over_the_margin_is_not_offered() -> None:
    assert set(WITH_REFERENCE) == {*LOSSES, SUMS[0]} - {
        "aot", "aot_unpaired", "sft", "unlikelihood", "simpo", "cpo", "orpo", "plackett_luce",
    }  # fmt: skip


def test_the_noise_explorer_trains_once_a_share_and_tells_what_failed(monkeypatch) -> None:
    asked = []

    def found(world, share, **size):
        asked.append((share, size))
        if share > 0.4:
            raise RuntimeError(HOSTILE)
        return {name: RewardFit(1 - share, 0.9) for name in ("plain", "conservative", "robust")}

    monkeypatch.setattr(loss_explorers, "under_noise", found)
    explorer = NoiseExplorer(world=None, pairs=100, steps=7)
    assert not len(explorer.figure.data[0].x)
    explorer.share.value = 0.2
    explorer.visit(0.1)
    explorer.visit(0.2)
    assert asked == [(0.2, {"pairs": 100, "steps": 7}), (0.1, {"pairs": 100, "steps": 7})]
    for figure in (explorer.figure, explorer.picture()):
        assert isinstance(figure, go.Figure | LiveFigure)
        assert list(figure.data[0].x) == [0.1, 0.2] and list(figure.data[0].y) == [0.9, 0.8]
    assert "20% wrong labels: plain 0.80" in explorer.status.value
    explorer.share.value = 0.45
    assert "failed: &lt;img" in explorer.status.value and "<img" not in explorer.status.value


def test_names_are_escaped() -> None:
    for figure in (
        displacement_figure({HOSTILE: (-1.0, -2.0)}),
        length_figure({HOSTILE: [0.1, 0.2]}, [1, 2]),
    ):
        assert "<img" not in figure.to_json().replace("\\u003c", "<")
