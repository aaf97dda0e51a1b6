from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dpo_lab import TrainConfig, prepare, train
from dpo_lab.analysis.margin_history import MarginHistory
from dpo_lab.analysis.pair_margins import score_pairs
from dpo_lab.data.preferences import load_preferences
from dpo_lab.training.control import RunControl
from dpo_lab.training.runs import Run

PAIRS = load_preferences("reviews")
CONFIG = TrainConfig(
    steps=12, batch_pairs=32, eval_every=0, eval_pairs=0, kl_samples=0, sample_prompts=0,
    held_out=0.0, limit=400,
)  # fmt: skip


@pytest.fixture(scope="module")
def run():
    some = replace(PAIRS, pairs=PAIRS.pairs[:50])
    history = MarginHistory(some, range(0, 13, 4))
    job = prepare(CONFIG, keep_reference=True)
    list(train(job, callbacks=[history]))
    return job, some, history


def test_margins_are_those_of_the_pairs_at_those_steps(run) -> None:
    job, some, history = run
    assert history.steps == [0, 4, 8, 12] and history.reward_margins.shape == (4, 50)
    assert history.reward_margins[0].abs().max() < 1e-5
    last = score_pairs(job, some).reward_margins
    torch.testing.assert_close(history.reward_margins[-1], last, rtol=0, atol=1e-5)
    assert last.abs().max() > 1e-3


def test_every_row_of_the_histogram_holds_every_pair_and_zero_is_an_edge(run) -> None:
    history = run[2]
    for bins in (1, 7, 50):
        edges, counts = history.histogram(bins)
        assert counts.shape == (4, len(edges) - 1)
        assert counts.sum(dim=1).tolist() == [50] * 4
        assert 0 in edges.tolist() and (edges.diff() > 0).all()
        below = counts[:, edges[1:] <= 1e-12].sum(dim=1)
        assert below.tolist() == [(row < 0).sum().item() for row in history.reward_margins]


class Scored(MarginHistory):
    """Six pairs at a beta of 1/2."""

    margins = torch.tensor([[-2.0, -0.5, 0.0, 1.0, 5.8, 6.0]])
    reward_margins = 0.5 * margins


def test_counts_and_shares_by_hand() -> None:
    history = Scored(PAIRS, [0])
    edges, counts = history.histogram(bins=4)
    assert edges.tolist() == [-1, 0, 1, 2, 3, 4] or edges.tolist()[:5] == [-1, 0, 1, 2, 3]
    assert counts[0, :4].tolist() == [2, 2, 0, 1] and counts.sum() == 6
    assert history.share_below_zero.tolist() == pytest.approx([2 / 6])


def test_a_histogram_without_bins_is_refused(run) -> None:
    with pytest.raises(ValueError, match="bins=0: no pair can be counted in no bin. Give bins"):
        run[2].histogram(bins=0)


def _job(config: TrainConfig = CONFIG):
    job = prepare(config, keep_reference=True)
    return job


@pytest.mark.parametrize("ld_alpha", [None, 0.0])
def test_margins_are_those_that_the_loss_sees(ld_alpha: float | None) -> None:
    some = replace(PAIRS, pairs=PAIRS.pairs[:50])
    job, history = _job(replace(CONFIG, ld_alpha=ld_alpha)), MarginHistory(some, [12])
    list(train(job, callbacks=[history]))
    last = score_pairs(job, some).reward_margins
    torch.testing.assert_close(history.reward_margins[0], last, rtol=0, atol=1e-5)


def test_each_step_has_the_beta_of_its_record() -> None:
    some = replace(PAIRS, pairs=PAIRS.pairs[:50])
    job, history, control = _job(), MarginHistory(some, [4, 8, 12]), RunControl()
    for record in train(job, control=control, callbacks=[history]):
        if record.step == 8:
            before = score_pairs(job, some).reward_margins
            control.set(beta=2.0)
    after = score_pairs(job, some, beta=2.0).reward_margins
    torch.testing.assert_close(history.reward_margins[1], before, rtol=0, atol=1e-5)
    torch.testing.assert_close(history.reward_margins[2], after, rtol=0, atol=1e-4)


def test_a_second_run_begins_anew() -> None:
    some = replace(PAIRS, pairs=PAIRS.pairs[:50])
    history = MarginHistory(some, [0, 12])
    for seed in (0, 1):
        job = _job(replace(CONFIG, seed=seed))
        run = train(job, callbacks=[history])
        next(run)
        assert history.steps == [0] and len(history.reward_margins) == 1
        list(run)
        assert history.steps == [0, 12]
        last = score_pairs(job, some).reward_margins
        torch.testing.assert_close(history.reward_margins[-1], last, rtol=0, atol=1e-5)


def test_a_run_of_another_reference_keeps_nothing_when_it_goes_on(run) -> None:
    job, some, _ = run
    history = MarginHistory(some, [4, 12])
    history.on_start(job, 4, 12)
    assert history.steps == [4]
    history.on_start(job, 12, 12)
    assert history.steps == [4, 12]
    history.on_start(replace(job, fingerprint="another"), 12, 12)
    assert history.steps == [12]


def test_a_run_that_goes_on_keeps_the_steps_before_and_the_beta_it_was_given(tmp_path) -> None:
    some = replace(PAIRS, pairs=PAIRS.pairs[:50])
    run = Run.create(tmp_path / "run", CONFIG, {})
    history, control = MarginHistory(some, [4, 6, 12]), RunControl()
    for record in train(_job(), run=run, control=control, callbacks=[history]):
        control.set(beta=2.0)
        if record.step == 6:
            control.stop()
    assert history.steps == [4, 6]
    other, first = MarginHistory(some, [4, 6, 12]), history.reward_margins
    list(train(_job(), run=run, callbacks=[history, other]))
    assert history.steps == [4, 6, 12] and other.steps == [6, 12]
    assert torch.equal(history.reward_margins[:2], first)
    # The run goes on at beta 2, though its configuration says 0.1.
    torch.testing.assert_close(other.reward_margins, history.reward_margins[1:], rtol=0, atol=1e-4)


def test_no_step_and_no_run_are_refused() -> None:
    with pytest.raises(ValueError, match="name at least one step"):
        MarginHistory(PAIRS, [])
    with pytest.raises(ValueError, match="no step was scored"):
        _ = MarginHistory(PAIRS, [0]).reward_margins
