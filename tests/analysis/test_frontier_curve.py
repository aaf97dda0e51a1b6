"""How far a run is from the frontier: exact, or with its error; pi* where it is the optimum."""

from __future__ import annotations

import pytest
import torch

from dpo_lab.analysis.frontier_curve import FrontierCurve, beyond, distance
from dpo_lab.objective.optimum import Frontier
from dpo_lab.training.history import History
from dpo_lab.training.records import StepRecord
from dpo_lab.ui.figures.training_figure import training_figure


@pytest.fixture(scope="module")
def theory() -> FrontierCurve:
    draws = torch.Generator().manual_seed(1)
    logps = (2 * torch.randn(3, 200, generator=draws).double()).log_softmax(-1)
    return FrontierCurve.of(Frontier(logps, 2 * torch.randn(3, 200, generator=draws).double()))


def _history(**values: float) -> History:
    values = {name.replace("__", "/"): value for name, value in values.items()}
    return History([StepRecord(7, 0.1, 7, 0.5, 1e-3, values)])


@pytest.mark.parametrize("kl", [1e-3, 0.02, 0.3, 1.0, 2.7, 4.5, 50.0])
def test_no_policy_has_more_than_what_is_said_and_hardly_less(theory, kl) -> None:
    exact, said = theory.frontier.at_kl(kl).reward, theory.reward_at(kl)
    start = theory.frontier.at(float("inf")).reward
    assert exact <= said + 1e-9 and said - exact < 2e-3 * (exact - start)


def test_a_point_of_the_frontier_has_all_there_is_to_gain_and_never_more(theory) -> None:
    for beta in (0.05, 0.31, 2.0):
        best = theory.frontier.at(beta)
        words = distance(_history(listed__kl=best.kl, listed__score=best.reward), theory)
        assert f"KL of {best.kl:.2f} nats" in words
        assert ": 100% of the reward that can be gained there, exactly" in words


def test_half_way_is_said_exactly_and_without_an_error(theory) -> None:
    start, best = theory.frontier.at(float("inf")).reward, theory.frontier.at_kl(0.8).reward
    values = {"listed__kl": 0.8, "listed__score": (start + best) / 2}
    # Sampled values beside them have no part in it.
    words = distance(_history(**values, kl__per_token=9.0, score__policy=99.0), theory)
    assert ": 50% of the reward" in words and "±" not in words


def test_a_share_of_samples_has_its_error_and_none_is_above_all(theory) -> None:
    """By the delta method: error of the score, and of the KL times the frontier's slope there."""
    at = theory.frontier.at(0.5)
    start = theory.frontier.at(float("inf")).reward
    gap = at.reward - start
    sampled = {"kl__per_token": at.kl, "kl__per_token_stderr": 0.04, "score__policy_stderr": 0.03}
    half = distance(_history(**sampled, score__policy=start + gap / 2), theory)
    error = (0.03**2 + (0.5 * 0.5 * 0.04) ** 2) ** 0.5 / gap
    assert f": 50% ± {error:.0%} of the reward" in half and "on samples" in half
    above = distance(_history(**sampled, score__policy=start + 1.1 * gap), theory)
    assert ": 100% ± " in above and "110%" not in above


def test_a_path_is_drawn_from_what_was_summed_where_it_was_and_else_with_its_error(theory) -> None:
    sampled = {"kl__per_token": 3.0, "kl__per_token_stderr": 0.1}
    sampled |= {"score__policy": 2.0, "score__policy_stderr": 0.2}
    both = _history(**sampled, listed__kl=1.0, listed__score=0.5)
    exact, drawn = (
        {trace.meta: trace for trace in training_figure(one, theory=theory).data}["path"]
        for one in (both, _history(**sampled))
    )
    assert (exact.x[0], exact.y[0], len(exact.error_y.array)) == (1.0, 0.5, 0)
    assert exact.name == "the run, exactly"
    assert (drawn.x[0], drawn.y[0]) == (3.0, 2.0)
    assert drawn.error_y.array[0] == pytest.approx(0.2) and drawn.name == "the run, ±1 s.e."


def test_pi_star_is_drawn_and_named_only_for_a_loss_whose_optimum_it_is(theory) -> None:
    records = _history(listed__kl=1.0, listed__score=0.5, score__policy=0.5)
    for aims in (True, False):
        figure = training_figure(records, theory=theory, aims_at_optimum=aims)
        traces = {trace.meta: trace for trace in figure.data}
        assert len(traces["optimum"].x) == aims and len(traces["frontier"].x) > 20
        words = distance(records, theory, aims)
        star = theory.frontier.at(0.5)
        assert (f"has a KL of {star.kl:.2f}" in words) == aims
        assert ("not the optimum of this loss" in words) != aims


def test_the_distance_is_told_of_the_step_that_was_measured_with_its_beta(theory) -> None:
    """Sums come at every other evaluation: what was changed since has no part in them."""
    exact = {"listed/kl": 1.0, "listed/score": 0.5}
    records = [StepRecord(50, 0.1, 50, 0.5, 1e-3, exact)]
    records.append(StepRecord(51, 0.1, 51, 2.0, 1e-3, {"kl/per_token": 3.0, "score/policy": 9.0}))
    words, star = distance(History(records), theory), theory.frontier.at(0.5)
    assert words.startswith("At step 50: at a KL of 1.00 nats")
    assert words.endswith(f"π* at β 0.5 has a KL of {star.kl:.2f} and scores {star.reward:.2f}.")


@pytest.mark.parametrize(("cut", "about"), [(0.0, "about"), (0.25, "at least about")])
def test_a_kl_of_whole_answers_is_an_estimate_and_a_bound_only_where_some_were_cut(cut, about):
    values = {"listed__beyond": 0.5, "kl__per_token": 3.25, "kl__per_token_stderr": 0.125}
    words = beyond(_history(**values, kl__n=64.0, kl__cut=cut))
    assert words.startswith("At step 7 the policy goes on after 3 words in 50% of 64 answers. ")
    assert f" have a KL of {about} 3.25 ± 0.12 nats, measured on these samples." in words


def test_share_and_kl_of_longer_answers_are_of_the_same_step() -> None:
    values = {"kl/per_token": 1.0, "kl/n": 8.0, "listed/beyond": 0.5}
    later = {"kl/per_token": 9.0, "kl/n": 16.0}
    records = [StepRecord(n, 0.1, n, 0.5, 1e-3, v) for n, v in ((50, values), (75, later))]
    words = beyond(History(records))
    assert "At step 50 " in words and "50% of 8 answers" in words and "about 1 nats" in words
