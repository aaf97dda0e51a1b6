"""A run in a few numbers, each with how many it is made of."""

from __future__ import annotations

import math

import pytest

from dpo_lab import TrainConfig
from dpo_lab.training.loop import train
from dpo_lab.training.records import StepRecord
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import prepare
from dpo_lab.training.start_or_resume import open_or_create
from dpo_lab.ui.report.summary import KL_TILE, report_of, row_of, start_loss, tiles


def test_held_out_accuracy_has_its_n_and_interval_and_a_tie_is_no_share() -> None:
    """Two right of two: Wilson's interval is n / (n + z^2) = 2 / (2 + 3.8415) = 0.342 to 1."""
    records = [
        StepRecord(0, 0.0, 0, 0.1, 1e-3, {"eval/rewards/accuracies": 0.0, "eval/pairs": 2}),
        StepRecord(4, 1.0, 8, 0.1, 1e-3, {"eval/rewards/accuracies": 1.0, "eval/pairs": 2}),
    ]
    tile = tiles(records, None)["Held-out accuracy"]
    assert (tile["before"], tile["after"]) == (None, 1.0)
    assert tile["text"].startswith("95 % interval 0.34 to 1.00, n = 2 pairs; ")
    assert "before training they all tie" in tile["text"]


def _begun(step: int, **later: float) -> list[StepRecord]:
    """A run with an evaluation at step 0, and maybe another, that was stopped at a step."""
    start = {"eval/rewards/accuracies": 0.0, "eval/rewards/margins": 0.0, "eval/pairs": 2}
    start |= {"kl/per_token": 0.0, "kl/per_token_stderr": 0.0, "kl/n": 8, "kl/cut": 0.5}
    start |= {"score/policy": -0.5, "listed/no_pair": 0.01}
    records = [StepRecord(0, 0.0, 0, 0.1, 1e-3, start)]
    for number in range(1, step + 1):
        measured = {name.replace("__", "/"): value for name, value in later.items()}
        values = {"rewards/margins": 0.25} | (measured if number == 5 else {})
        records.append(StepRecord(number, 0.0, number, 0.1, 1e-3, values))
    return records


def test_what_step_0_measured_is_not_told_of_a_policy_that_was_trained() -> None:
    found = tiles(_begun(10), None)
    assert len(found) == 4
    for label, tile in found.items():
        assert tile["after"] is None and tile["text"] == "not measured after step 0", label
    row = row_of("a", "stopped", TrainConfig().as_dict(), _begun(10))
    assert (row["step"], row["margin"], row["KL"], row["score"]) == (10, "0.250", "–", "–")


def test_an_evaluation_before_the_last_step_is_told_with_its_step() -> None:
    records = _begun(10, kl__per_token=1.5, score__policy=2.0)
    tile = tiles(records, None)[KL_TILE]
    assert (tile["before"], tile["after"]) == (0.0, 1.5)
    assert tile["text"] == "at step 5; nats, on the policy's own samples"  # no error was measured
    row = row_of("a", "stopped", TrainConfig().as_dict(), records)
    assert (row["KL"], row["score"]) == ("1.500 (step 5)", "2.000 (step 5)")


def test_the_loss_at_margin_0_is_that_of_each_beta() -> None:
    """IPO's is (1 / (2 beta))^2: 25 at beta 0.1, 1/4 at 1. DPO's is ln 2 at every beta."""
    records = [StepRecord(n, 0.0, n, 0.1 if n < 7 else 1.0, 1e-3, {}) for n in range(1, 9)]
    assert start_loss(TrainConfig(loss="ipo"), records) == [
        (1, pytest.approx(25)),
        (7, pytest.approx(0.25)),
    ]
    assert start_loss(TrainConfig(loss="ipo", beta=1)) == [(0, pytest.approx(0.25))]
    losses = [loss for _, loss in start_loss(TrainConfig(), records)]
    assert losses == [pytest.approx(math.log(2))] * 2
    assert start_loss(TrainConfig(loss="sft"), records) is None


def test_an_older_run_without_n_still_has_its_tiles() -> None:
    records = [StepRecord(5, 1.0, 8, 0.1, 1e-3, {"eval/rewards/accuracies": 0.75})]
    tile = tiles(records, None)["Held-out accuracy"]
    assert tile["before"] == tile["after"] == 0.75 and "interval" not in tile["text"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Run:
    config = TrainConfig(steps=3, batch_pairs=4, eval_every=3, eval_pairs=8, kl_samples=0)
    job = prepare(config)
    run = open_or_create(Run(tmp_path_factory.mktemp("runs") / "one"), job)
    list(train(job, run=run))
    return run


def test_the_margin_has_the_standard_error_of_its_pairs(kept: Run) -> None:
    last = list(kept.records())[-1]
    assert last["eval/pairs"] == 8
    spread = last["eval/rewards/margins_p90"] - last["eval/rewards/margins_p10"]
    # Of 8 values the standard error is less than half of what 80 % of them span, and not nothing.
    assert 0 < last["eval/rewards/margins_stderr"] < spread / 2
    text = tiles(list(kept.records()), None)["Held-out reward margin"]["text"]
    assert text.startswith(f"± {last['eval/rewards/margins_stderr']:.3f} (1 s.e.), n = 8 pairs; ")


def test_a_report_is_small_beside_one_copy_of_plotly_or_one_file(kept: Run) -> None:
    page = report_of(kept)
    (library,) = kept.path.parent.glob("plotly-*.min.js")
    assert page.stat().st_size < 1_000_000 < library.stat().st_size
    assert report_of(kept, single_file=True).stat().st_size > library.stat().st_size


@pytest.mark.parametrize(("beyond", "told"), [(0.005, False), (0.25, True)])
def test_answers_outside_pairs_and_beyond_three_words_have_their_tiles(beyond, told) -> None:
    start = {"listed/no_pair": 0.01, "listed/beyond": 0.0}
    end = {"listed/no_pair": 0.5, "listed/beyond": beyond}
    records = [StepRecord(n, 0.0, n, 0.1, 1e-3, one) for n, one in enumerate((start, end))]
    found = tiles(records, None)
    outside = found["Answers in no pair"]
    assert (outside["before"], outside["after"]) == (0.01, 0.5)
    assert ("Over 3 words" in found) == told
    assert not told or found["Over 3 words"]["after"] == 0.25
