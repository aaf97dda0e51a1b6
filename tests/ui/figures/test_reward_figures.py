from __future__ import annotations

import math

import pytest
import torch

from dpo_lab.objective.bradley_terry import calibration
from dpo_lab.ui.figures.rewards import calibration_figure, preference_figure, rewards_figure


def test_a_pair_stands_at_its_probability() -> None:
    curve, points = preference_figure({"even": 0.0, "three": 3.0, "far": -9.0}).data
    wanted = [1 / (1 + math.exp(-gap)) for gap in (0, 3, -9)]
    assert list(points.y) == pytest.approx(wanted)
    assert curve.x[0] < -9 and curve.x[-1] > 9


def test_calibration_shows_each_bin_with_its_standard_error() -> None:
    found = calibration(torch.tensor([0.1, -0.1, 3.0, 3.0, 3.0, -3.0]), bins=2)
    diagonal, points = calibration_figure(found).data
    assert list(diagonal.x) == list(diagonal.y)
    assert list(points.y) == [0.5, 0.75] and list(points.customdata) == [2, 4]
    assert list(points.x) == pytest.approx([1 / (1 + math.exp(-gap)) for gap in (0.1, 3.0)])
    wanted = [math.sqrt(0.25 / 2), math.sqrt(0.75 * 0.25 / 4)]
    assert list(points.error_y.array) == pytest.approx(wanted)


def test_texts_are_escaped() -> None:
    odd = "<img src=x onerror=alert(1)>"
    assert "<img" not in preference_figure({odd: 1.0}).to_json()
    pair = torch.zeros(2), torch.zeros(2)
    assert "<img" not in rewards_figure({odd: pair}, odd).to_json()
