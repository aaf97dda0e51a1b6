from __future__ import annotations

import numpy as np
import pytest
import torch

from dpo_lab.analysis.frontier_curve import FrontierCurve
from dpo_lab.models.kl import MeasuredKL
from dpo_lab.objective.kl import Estimate
from dpo_lab.objective.optimum import Frontier
from dpo_lab.ui.figures.kl import estimators_figure, frontier_figure
from dpo_lab.ui.report.sweep_page import sweep_figure


@pytest.fixture(scope="module")
def theory() -> FrontierCurve:
    generator = torch.Generator().manual_seed(0)
    logps = torch.randn(2, 30, dtype=torch.float64, generator=generator).log_softmax(-1)
    return FrontierCurve.of(Frontier(logps, torch.randn(2, 30, generator=generator).double()))


def _measured(n: int, shift: float) -> MeasuredKL:
    parts = [Estimate(1 + shift + k, 0.1 * (k + 1), n) for k in range(3)]
    return MeasuredKL(*parts, 2.0)


def test_every_estimate_stands_with_its_error_near_its_number_of_samples() -> None:
    figure = estimators_figure([_measured(30, 0.0), _measured(120, 0.5)], exact=1.25)
    for k, trace in enumerate(figure.data[:3]):
        assert list(trace.y) == [1 + k, 1.5 + k]
        assert list(trace.error_y.array) == pytest.approx([0.1 * (k + 1)] * 2)
        assert np.log(np.array(trace.x) / [30, 120]) == pytest.approx(0, abs=0.1)
    assert len({trace.marker.color for trace in figure.data[:3]}) == 3
    assert list(figure.data[3].y) == [1.25, 1.25]


def test_policies_stand_where_they_are_and_optima_on_the_frontier(theory) -> None:
    first, second = theory.frontier.at(2.0), theory.frontier.at(0.7)
    reference = theory.frontier.point(theory.frontier.reference_logps)
    moved = theory.frontier.point(
        (theory.frontier.reference_logps + theory.frontier.rewards / 3).log_softmax(-1)
    )
    groups = {"few": {"start": reference}, "many": {"<b>": moved}}
    figure = frontier_figure(theory, groups, optima=(2.0, 0.7))
    curve, stars, few, many = figure.data
    assert list(stars.x) == [first.kl, second.kl] and list(stars.y) == [first.reward, second.reward]
    assert np.interp(stars.x, curve.x, curve.y) == pytest.approx(stars.y, abs=5e-3)
    assert (few.x[0], few.y[0]) == (reference.kl, reference.reward)
    assert (many.x[0], many.y[0], many.customdata[0]) == (moved.kl, moved.reward, moved.gained)
    assert many.customdata[0] == pytest.approx(1) and max(curve.x) > second.kl
    assert many.text[0] == "&lt;b&gt;" and few.marker.symbol != many.marker.symbol


def test_a_sweep_over_losses_tells_them_by_shape_and_what_has_no_beta_by_grey(theory) -> None:
    values = {"kl/per_token": 0.5, "score/policy": 0.1}
    rows = [values | {"run": loss, "loss": loss, "beta": 0.1} for loss in ("sigmoid", "ipo")]
    figure = sweep_figure([*rows, values | {"run": "plain", "loss": "SFT"}], theory)
    frontier, coloured, grey, *legend = figure.data
    assert len(set(coloured.marker.symbol)) == 2 and len(grey.x) == 1
    named = {trace.name: trace.marker.symbol.removesuffix("-open") for trace in legend}
    assert named == dict(zip(["ipo", "sigmoid"], reversed(coloured.marker.symbol), strict=True)) | {
        "SFT": grey.marker.symbol[0]
    }
    assert grey.marker.color != coloured.marker.color


def test_a_sweep_stands_where_it_is_over_the_listed_answers_and_says_who_goes_on(theory) -> None:
    """Sampled, a run that goes on had KL 400 and a score of 90; up to its third word 2 and 0.5."""
    rows = [
        {
            "run": f"one {beyond}", "beta": 0.1, "loss": "sigmoid", "kl/per_token": 400.0,
            "kl/per_token_stderr": 9.0, "score/policy": 90.0, "score/policy_stderr": 3.0,
            "listed/kl": 2.0, "listed/score": 0.5, "listed/beyond": beyond,
        }
        for beyond in (0.0, 0.3)
    ]  # fmt: skip
    figure = sweep_figure(rows, theory)
    points = next(trace for trace in figure.data if trace.name == "β 0.1")
    assert list(points.x) == [2.0, 2.0] and list(points.y) == [0.5, 0.5]
    assert [text.count("goes on after 3 words in 30%") for text in points.text] == [0, 1]
    title = figure.layout.xaxis.title.text
    assert "in answers of at most 3 words (1 of 2 points go on in more than 1% of theirs)" in title
    # Rows of which one has no such values are all drawn as they were sampled, with their errors.
    del rows[0]["listed/kl"]
    points = next(t for t in sweep_figure(rows, theory).data if t.name == "β 0.1")
    assert list(points.x) == [400.0, 400.0] and list(points.error_x.array) == [9.0, 9.0]


@pytest.mark.parametrize("losses", [{}, {"loss": "ipo"}])
def test_methods_of_a_sweep_have_a_symbol_each_and_are_named(losses):
    """DPO by its loss where that was varied."""
    rows = [
        {"run": f"method={method}", "method": method, "kl/per_token": 0.1, "score/policy": 0.2}
        | losses
        for method in ("dpo", "rloo", "grpo")
    ]
    figure = sweep_figure(rows)
    symbols = {trace.name: trace.marker.symbol for trace in figure.data if trace.marker.symbol}
    named = {name: one for name, one in symbols.items() if str(one).endswith("-open")}
    assert set(named) == {losses.get("loss", "dpo"), "rloo", "grpo"}
    assert len(set(named.values())) == 3
