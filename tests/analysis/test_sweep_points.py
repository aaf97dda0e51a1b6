import math

import pytest

from dpo_lab.analysis.sweep_points import sweep_points
from dpo_lab.training.config import TrainConfig
from dpo_lab.ui.report.sweep_page import SweepPage, sweep_figure

KEYS = "kl/per_token", "score/policy"


def row(name: str, kl: float, score: float, **values) -> dict:
    return {"run": name, "kl/per_token": kl, "score/policy": score, **values}


def test_runs_that_differ_in_their_seed_are_one_point():
    """Of 1, 2 and 6 the mean is 3, the standard deviation sqrt(7), its error sqrt(7 / 3)."""
    rows = [
        row(f"beta={beta:g},seed={seed}", kl, kl / 2, beta=beta, seed=seed)
        for beta, kls in ((0.1, (1.0, 2.0, 6.0)), (1.0, (0.5, 0.5, 0.5)))
        for seed, kl in enumerate(kls)
    ]
    first, second = sweep_points(rows, *KEYS)
    assert (first.name, second.name) == ("beta=0.1", "beta=1")  # as the folders are named
    assert (first.kl, first.score) == (3.0, 1.5)
    assert first.kl_stderr == pytest.approx(math.sqrt(7 / 3))
    assert first.score_stderr == pytest.approx(math.sqrt(7 / 3) / 2)
    assert second.kl_stderr == 0 and len(second.rows) == 3


def test_one_run_has_the_errors_of_its_samples():
    rows = [row("beta=1", 1.0, 2.0, beta=1.0) | {"kl/per_token_stderr": 0.3}]
    (point,) = sweep_points(rows, *KEYS)
    assert point.kl_stderr == 0.3 and math.isnan(point.score_stderr) and point.name == "beta=1"


def test_a_point_is_best_if_none_has_more_for_the_same_or_less():
    points = {"a": (1, 1), "b": (2, 3), "c": (2, 2), "d": (3, 3), "e": (0.5, -1), "f": (2, 3)}
    rows = [row(name, *point) for name, point in points.items()]
    best = {point.name for point in sweep_points(rows, *KEYS) if point.best}
    assert best == {"a", "b", "e", "f"}


def test_the_figure_draws_means_seeds_and_names():
    rows = [
        row(f"beta={beta:g},seed={seed}", 1 / beta + seed, 5 - beta + seed, beta=beta, seed=seed)
        for beta in (0.5, 1.0)
        for seed in (0, 1)
    ]
    figure = sweep_figure([*rows, row("beta=2,seed=0", 9.0, 0.0, beta=2.0, seed=0)])
    assert [len(trace.x) for trace in figure.data] == [1, 2, 1, 2, 1]
    mean = figure.data[0]
    assert mean.x[0] == 2.5 and mean.text[0] == "beta=0.5: mean of 2 seeds"
    assert mean.error_x.array[0] == 0.5
    assert {note.text for note in figure.layout.annotations} == {"beta=0.5", "beta=1"}


def test_names_that_would_lie_on_each_other_are_left_out():
    rows = [row(f"run {n}", 5 + n / 10, 3 + n / 100) for n in range(9)] + [row("low", 0.0, 0.0)]
    notes = sweep_figure(rows).layout.annotations
    assert [note.text for note in notes] == ["run 8", "low"]


def test_a_page_that_grows_loads_itself_again_and_the_last_one_does_not(tmp_path):
    configs = {name: TrainConfig(data="nowhere.jsonl", model="nowhere") for name in "ab"}
    page = SweepPage(configs, tmp_path / "sweep.html")
    page.__dict__["theory"] = None
    growing = page.write([row("a", 1.0, 2.0)], going_on=True).read_text()
    assert "<meta http-equiv='refresh' content='5'>" in growing and "1 of 2 runs" in growing
    whole = page.write([row("a", 1.0, 2.0), row("b", 2.0, 2.5)]).read_text()
    assert "http-equiv='refresh'" not in whole and "of 2 runs" not in whole
