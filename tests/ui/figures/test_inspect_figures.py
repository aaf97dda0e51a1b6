"""Figures of displacement and of margins over training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpo_lab.analysis.displacement import Displacement, Share
from dpo_lab.analysis.margin_history import MarginHistory
from dpo_lab.data.preferences import preferences_from_rows
from dpo_lab.ui.figures.displacement import mass_figure, shares_figure
from dpo_lab.ui.figures.margins import margin_figure

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def found() -> Displacement:
    return Displacement(
        ("a", "b", HOSTILE, "", "e"),
        torch.tensor([0.4, 0.3, 0.1, 0.1, 0.1], dtype=torch.float64),
        torch.tensor([0.2, 0.1, 0.5, 0.15, 0.05], dtype=torch.float64),
        ("mostly chosen", "mostly rejected", "in no pair", "in no pair", "as often both"),
    )


def test_bars_are_the_shares_and_the_words_are_the_sums(found) -> None:
    figure = mass_figure(found, "how?", rows=2)
    groups_after, groups_before, after, before = figure.data
    names = figure.layout.yaxis.ticktext
    assert names == ("in no pair", "mostly rejected", "as often both", "mostly chosen")
    assert list(groups_before.x) == pytest.approx([0.2, 0.3, 0.1, 0.4])
    assert list(groups_after.x) == pytest.approx([0.65, 0.1, 0.05, 0.2])
    # From below: the two that lost most, then the gaining ones, the first of all on top.
    assert list(after.x) == pytest.approx([0.2, 0.1, 0.15, 0.5]) or list(after.x) == pytest.approx(
        [0.1, 0.2, 0.15, 0.5]
    )
    assert list(before.x)[-1] == pytest.approx(0.1)
    text = figure.layout.annotations[1].text
    # 0.4 + 0.05 gained, all of it by answers in no pair.
    assert "45% changed hands; 100% of it to answers in no such pair" in text
    assert "(empty)" in figure.layout.yaxis2.ticktext[2]


def test_texts_in_figures_are_escaped(found) -> None:
    pages = [
        mass_figure(found, HOSTILE).to_json(),
        shares_figure([Share(HOSTILE, 0.1, 0.2, HOSTILE)], 50).to_json(),
    ]
    for page in pages:
        assert "<img" not in page.replace("\\u003c", "<") and "&lt;img" in page


def test_shares_of_samples_carry_their_standard_errors() -> None:
    shares = [Share("up", 0.1, 0.5), Share("down", 0.5, 0.2)]
    after, before = shares_figure(shares, 100).data
    assert list(after.x) == [0.2, 0.5] and list(before.x) == [0.5, 0.1]
    assert list(after.error_x.array) == pytest.approx([0.04, 0.05])


class Scored(MarginHistory):
    """Four pairs after three steps, at a beta of 1."""

    margins = torch.tensor([[0.0, 0, 0, 0], [-1.0, 0, 1, 2], [-1.0, 1, 2, 2]])
    reward_margins = margins


def test_margins_by_step() -> None:
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}]
    history = Scored(preferences_from_rows(rows), [0, 5, 10])
    history.steps = [0, 5, 10]
    figure = margin_figure(history, bins=3)
    heat, median, below = figure.data
    np.testing.assert_allclose(np.array(heat.z).sum(axis=0), 1)
    assert list(heat.x) == ["0", "5", "10"] == list(below.x)
    assert list(below.y) == [0, 0.25, 0.25] and list(median.y) == [0, 0.5, 1.5]
    # All are in one cell at the start: the scale is that of the end.
    assert heat.zmax == pytest.approx(1.1 * 0.5, abs=0.3) and heat.zmax < 1
    assert "4 pairs" in figure.layout.annotations[0].text
