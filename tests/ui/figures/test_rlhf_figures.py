"""Figures of RLHF beside DPO carry exactly the numbers they are given."""

import numpy as np
import pytest

from dpo_lab.analysis.optimality_gap import (
    COVERAGE,
    ESTIMATOR,
    NOISE,
    OPTIMISATION,
    GapPart,
    OptimalityGap,
)
from dpo_lab.training.records import StepRecord
from dpo_lab.ui.figures.rlhf import gap_figure, overoptimisation_figure


def gap(**gains) -> OptimalityGap:
    parts = tuple(GapPart(name, f"for {name}", gain) for name, gain in gains.items())
    return OptimalityGap(1.0, 1.0 + sum(gains.values()), parts)


def test_a_bar_for_each_run_with_its_parts_and_their_sum():
    first = gap(**{NOISE: -0.25, COVERAGE: 1.5, ESTIMATOR: 0.125, OPTIMISATION: 0.5})
    second = gap(**{ESTIMATOR: 0.75, OPTIMISATION: 0.25})
    figure = gap_figure({"DPO": first, "RLOO": second})
    values = {bar.name: list(bar.x) for bar in figure.data}
    assert values == {
        NOISE: [-0.25, 0], COVERAGE: [1.5, 0], ESTIMATOR: [0.125, 0.75], OPTIMISATION: [0.5, 0.25]
    }  # fmt: skip
    assert [list(bar.y) for bar in figure.data] == [["DPO", "RLOO"]] * 4
    sums = {note.y: note.text for note in figure.layout.annotations}
    assert sums == {"DPO": "in all 1.875", "RLOO": "in all 1.000"}
    texts = {bar.name: list(bar.text) for bar in figure.data}
    assert texts[NOISE] == ["−0.25", ""] and texts[ESTIMATOR] == ["0.12", "0.75"]
    low, high = figure.layout.xaxis.range
    assert low < -0.25 and high > 2.125
    assert len({bar.marker.color for bar in figure.data}) == 4


def records(*rows) -> list[StepRecord]:
    keys = ("kl/per_token", "score/policy", "proxy/policy")
    return [
        StepRecord(step, 0.0, 0, 0.1, 1e-3, dict(zip(keys, row, strict=True)))
        for step, row in enumerate(rows)
    ]


def test_both_rewards_are_drawn_from_where_they_began():
    figure = overoptimisation_figure(records((0, -1, 5), (1, 0.5, 6.5), (2, 1, 7), (4, 0, 9)))
    model, truth = figure.data
    np.testing.assert_array_equal(model.x, [0, 1, 2, 4])
    np.testing.assert_array_equal(model.y, [0, 1.5, 2, 4])
    np.testing.assert_array_equal(truth.y, [0, 1.5, 2, 1])
    assert (model.name, truth.name) == ("by its reward model", "in truth")


def test_a_run_without_a_reward_model_is_refused():
    with pytest.raises(ValueError, match="no two evaluations with a reward model and a true score"):
        overoptimisation_figure(records((0, 1, 2)))
