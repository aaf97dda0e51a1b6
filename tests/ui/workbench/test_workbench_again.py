"""A workbench opened again, and values corrected: what is found, freed, said and said no more."""

from __future__ import annotations

import pytest
from ipywidgets.widgets.widget import _instances as open_widgets

from dpo_lab.ui.workbench.workbench import Workbench

pytestmark = pytest.mark.slow

QUICK = {"steps": 40, "batch_pairs": 4, "eval_every": 0, "kl_samples": 0}


@pytest.fixture
def opened(tmp_path):
    """Opens workbenches on one folder, and closes the last."""
    benches = []

    def one(**settings) -> Workbench:
        benches.append(Workbench(**{"folder": tmp_path / "runs"} | QUICK | settings))
        return benches[-1]

    yield one
    benches[-1].close()


def test_a_run_that_goes_on_is_found_by_the_next_workbench_and_said_so(opened) -> None:
    before = opened()
    run = before.step(5).reach(5, 60)
    after = opened()
    assert after.run is run and run.running and "shown again" in after.bar.note.value
    assert before.run is None and "another workbench" in before.bar.status.value
    after.resume()
    assert run.wait(120).state == "done" and len(run.records) == 40
    (curve,) = [trace for trace in after.figure.data if trace.meta == "loss"]
    assert list(curve.x) == list(range(1, 41))
    assert after.bar.status.value == "done · step 40/40 · beta 0.3"
    assert list(after.shelf.runs) == [run.folder.name]
    after.train(steps=2).wait(60)
    assert after.bar.note.value == ""


def test_beta_moved_in_mid_run_is_that_of_the_next_workbench(opened) -> None:
    before = opened()
    run = before.step(5).reach(5, 60)
    before.change(beta=2.0)
    after = opened()
    assert after.state.config.beta == after.controls["beta"].value.value == 2.0
    after.change(beta=1.0)
    after.resume()
    betas = [record.beta for record in run.wait(120).records]
    assert betas == [0.3] * 5 + [1.0] * 35


def test_code_that_trains_ends_the_run_that_was_found(opened) -> None:
    run = opened().step(5).reach(5, 60)
    own = opened().train(steps=2)
    assert run.state == "stopped" and own.wait(60).state == "done"


def test_another_workbench_stops_the_run_and_says_where(opened) -> None:
    run = opened().step(5).reach(5, 60)
    other = opened(seed=1)
    assert run.state == "stopped" and other.run is None
    assert "stopped at step 5" in other.bar.note.value and str(run.folder) in other.bar.note.value


def test_opening_it_again_and_again_frees_what_was_before(opened) -> None:
    opened().train(steps=2).wait(60)
    counts = []
    for _ in range(4):
        bench = opened()
        bench.warm_up.wait(60)
        bench.step(1).reach(1, 60)
        bench.stop()
        bench.run.wait(60)
        counts.append(len(open_widgets))
    grown = [later - sooner for sooner, later in zip(counts, counts[1:], strict=False)]
    # What stays of each is a line of words and, in the next one's table, its run.
    assert counts[0] > 500 and max(grown) < 25


def test_older_runs_are_folded_away_and_the_table_is_freed(opened, monkeypatch) -> None:
    monkeypatch.setattr("dpo_lab.ui.workbench.runs_table.SHOWN", 1)
    bench = opened()
    table = bench.runs.table
    for seed in (1, 2):
        bench.train(steps=2, seed=seed).wait(60)
    newest = list(bench.shelf.runs)[-1]
    assert [row[0] for row in table.rows] == [newest] and bench.runs.ticked[-1] == newest
    assert "1 older runs are folded away" in bench.runs._note.value
    held = [table, table.view, table.view.layout]
    assert all(one.comm is not None for one in held)
    opened()
    assert [one.comm for one in held] == [None] * 3


def test_what_was_said_of_the_run_that_was_found_leaves_with_it(opened) -> None:
    opened().step(5).reach(5, 60)
    bench = opened()
    assert "shown again" in bench.bar.note.value
    bench.stop()
    bench.run.wait(60)
    bench.reset()
    assert bench.bar.note.value == ""


def test_a_failed_message_leaves_when_the_value_is_corrected(opened) -> None:
    bench = opened()
    with pytest.raises(FileNotFoundError):
        bench.train(data="nowhere.jsonl").wait(60)
    assert bench.bar.status.value.startswith("failed: nowhere.jsonl")
    bench.controls["data"].value.value = "reviews"
    assert bench.bar.status.value == "idle · step 0"
    bench.controls["steps"].value.value = "many"
    bench.bar.train.click()
    assert "steps" in bench.bar.status.value
    bench.controls["steps"].value.value = "2"
    assert bench.bar.status.value == "idle · step 0"


@pytest.mark.parametrize("typed", ["99", "0.001", "-1", "nan"])
def test_beta_typed_beyond_the_slider_is_refused_in_words(opened, typed) -> None:
    beta = opened().controls["beta"]
    beta.typed.value = typed
    assert beta.state.config.beta == 0.3 and beta.value.value == 0.3
    assert f"beta={typed}: the slider goes from 0.01 to 10." in beta.problem.value
    assert beta.typed.value == typed  # left there to be corrected
    beta.typed.value = "2.5"
    assert beta.state.config.beta == beta.value.value == 2.5 and beta.problem.value == ""


def test_the_typed_number_follows_the_slider_and_refuses_words(opened) -> None:
    bench = opened()
    bench.bar.instant.value = False
    beta, rate = (bench.controls[name] for name in ("beta", "learning_rate"))
    beta.value.value = 4.0
    assert beta.typed.value == "4" and rate.typed.value == "0.001"
    rate.typed.value = "quick"
    assert "learning_rate=quick: must be a number." in rate.problem.value
    rate.typed.value = "3e-4"
    assert bench.state.config.learning_rate == pytest.approx(3e-4) and rate.problem.value == ""


@pytest.mark.parametrize(
    "inputs, said",
    [
        ({"data": [{"prompt": "a", "chosen": "b", "rejected": "c"}]}, "cannot reach data"),
        ({"reward_fn": lambda prompt, answer: 0.0}, "cannot reach reward_fn"),
        ({"folder": None}, "cannot reach folder=None"),
        ({"processes": 0}, "processes=0: must be at least 1"),
        ({"processes": 1, "strategy": "fsdp"}, "strategy='fsdp': divides weights.*at least 2"),
        ({"processes": None, "strategy": "fsdp"}, "strategy='fsdp': divides weights.*at least 2"),
    ],
)
def test_processes_of_their_own_need_what_they_can_read(inputs, said):
    with pytest.raises(ValueError, match=said):
        Workbench(**{"processes": 2} | inputs)
