from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dpo_lab.models.response_space import ResponseSpace
from dpo_lab.ui.explorers.optimum import (
    BARS,
    OptimumExplorer,
    objective_figure,
    optimum_figure,
)


@pytest.fixture(scope="module")
def world() -> ResponseSpace:
    generator = torch.Generator().manual_seed(0)
    logps = torch.randn(2, 60, dtype=torch.float64, generator=generator).mul(2).log_softmax(-1)
    rewards = torch.randn(2, 60, dtype=torch.float64, generator=generator)
    return ResponseSpace(
        ("one", "two"), tuple(f"word{place}" for place in range(60)), logps, rewards
    )


def _star(world: ResponseSpace, row: int, beta: float) -> dict[str, float]:
    """pi* by plain arithmetic."""
    both = zip(world.reference_logps[row].tolist(), world.rewards[row].tolist(), strict=True)
    weights = [math.exp(logp) * math.exp(reward / beta) for logp, reward in both]
    return dict(zip(world.responses, (w / math.fsum(weights) for w in weights), strict=True))


def _kl_and_reward(world: ResponseSpace, row: int, shares: list[float]) -> tuple[float, float]:
    reference, rewards = world.reference_logps[row].tolist(), world.rewards[row].tolist()
    kl = math.fsum(p * (math.log(p) - q) for p, q in zip(shares, reference, strict=True))
    return kl, math.fsum(p * r for p, r in zip(shares, rewards, strict=True))


@pytest.mark.parametrize("beta", [0.05, 0.3, 1.0, 10.0])
@pytest.mark.parametrize("row", [0, 1])
def test_bars_are_the_shares_of_pi_star_and_of_the_reference(world, beta, row) -> None:
    after, before, *_ = optimum_figure(world, world.prompts[row], beta).data
    star, names = _star(world, row, beta), [label.split()[0] for label in after.y]
    assert len(set(names)) == BARS and list(before.y) == list(after.y)
    np.testing.assert_allclose(after.x, [star[name] for name in names], rtol=1e-9)
    reference = dict(zip(world.responses, world.reference_logps[row].exp().tolist(), strict=True))
    np.testing.assert_allclose(before.x, [reference[name] for name in names], rtol=1e-9)
    assert max(star, key=star.get) in names


def test_the_bars_stand_in_the_order_of_their_rewards_whatever_beta_is(world) -> None:
    figures = [optimum_figure(world, "one", beta) for beta in (0.01, 0.2, 7.0)]
    labels = {tuple(figure.data[0].y) for figure in figures}
    assert len(labels) == 1
    worth = dict(zip(world.responses, world.rewards[0].tolist(), strict=True))
    shown = [worth[label.split()[0]] for label in labels.pop()]
    assert shown == sorted(shown)


@pytest.mark.parametrize("beta", [0.02, 0.3, 1.0, 10.0])
def test_the_point_lies_on_the_frontier_where_the_line_of_equal_j_touches_it(world, beta) -> None:
    figure = optimum_figure(world, "two", beta)
    frontier, line, _, star = figure.data[2:]
    kl, reward = _kl_and_reward(world, 1, list(_star(world, 1, beta).values()))
    assert (star.x[0], star.y[0]) == pytest.approx((kl, reward), rel=1e-6, abs=1e-9)
    assert np.interp(kl, frontier.x, frontier.y) == pytest.approx(reward, abs=5e-3)
    at_no_kl, at_the_end = line.y
    assert at_no_kl == pytest.approx(reward - beta * kl, rel=1e-6)
    assert at_the_end - at_no_kl == pytest.approx(beta * line.x[1])
    assert (at_no_kl + beta * np.array(frontier.x) > np.array(frontier.y) - 1e-9).all()
    for axis, value in ((figure.layout.xaxis2, kl), (figure.layout.yaxis2, reward)):
        assert axis.range[0] < value < axis.range[1] * (1 + 1e-9)
    assert max(figure.data[0].x) <= figure.layout.xaxis.range[1]


def test_dragging_moves_bars_and_point_and_sends_no_more_than_what_moved(world) -> None:
    explorer, messages = OptimumExplorer(world, "one", beta=0.3), []
    figure, traces = explorer.figure, len(explorer.figure.data)
    sheet = figure.view.sheet
    sheet.send_state = messages.append
    explorer.beta.value = 1.0
    assert len(figure.data) == traces
    (names,) = messages
    # pi*'s bars, the line of equal J, and the point; neither reference nor frontier.
    assert {name for name in names if name.startswith("trace")} == {"trace 0", "trace 3", "trace 5"}
    wanted = optimum_figure(world, "one", 1.0)
    for mine, theirs in zip(figure.data, wanted.data, strict=True):
        np.testing.assert_array_equal(mine.x, theirs.x)
        np.testing.assert_array_equal(mine.y, theirs.y)
    assert "β = 1<" in figure.layout.annotations[0].text
    assert figure.layout == wanted.layout
    reloaded = sheet.get_state()["trace 5"]["piece"]["x"]
    assert list(np.atleast_1d(reloaded)) == list(wanted.data[5].x)


def test_the_slider_runs_from_a_hundredth_to_ten_and_answers_while_it_is_dragged(world) -> None:
    explorer = OptimumExplorer(world, "two")
    assert (10**explorer.beta.min, 10**explorer.beta.max) == (0.01, 10)
    assert explorer.beta.continuous_update and explorer.beta.value == pytest.approx(0.3)
    shown = explorer._repr_mimebundle_()
    assert "run this cell" in shown["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in shown


def test_texts_are_escaped_and_an_unknown_prompt_is_refused(world) -> None:
    odd = "<img src=x onerror=alert(1)>"
    marked = replace(world, responses=("", *[odd] * 59))
    labels = "".join(optimum_figure(marked, "one", 1.0).data[0].y)
    assert "<img" not in labels and "&lt;img" in labels
    with pytest.raises(ValueError, match="not in this world"):
        optimum_figure(world, "three", 1.0)


def test_j_is_highest_at_pi_star_and_is_reward_less_the_cost_of_the_kl(world) -> None:
    beta = 0.4
    figure = objective_figure(world, "one", beta)
    line, gained, paid, value, star = figure.data
    np.testing.assert_allclose(value.y, np.array(gained.y) - np.array(paid.y))
    assert value.x[np.argmax(value.y)] == pytest.approx(1)
    kl, reward = _kl_and_reward(world, 0, list(_star(world, 0, beta).values()))
    assert star.y[0] == pytest.approx(reward - beta * kl) == pytest.approx(line.y[0])
    assert paid.y[0] == pytest.approx(0, abs=1e-12)
