from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dpo_lab.data.preferences import load_preferences
from dpo_lab.training import TrainConfig, prepare, train
from dpo_lab.training.margin_history import MarginHistory
from dpo_lab.training.pair_scores import score_pairs

PAIRS = load_preferences("reviews")
CONFIG = TrainConfig(
    steps=12, batch_pairs=32, eval_every=0, eval_pairs=0, kl_samples=0, sample_prompts=0,
    held_out=0.0, limit=400,
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Steps as small as these are faster on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run():
    some = replace(PAIRS, pairs=PAIRS.pairs[:50])
    history = MarginHistory(some, range(0, 13, 4))
    job = prepare(CONFIG)
    job.reference.keep()
    list(train(job, callbacks=[history]))
    return job, some, history


def test_margins_are_those_of_the_pairs_at_those_steps(run) -> None:
    job, some, history = run
    assert history.steps == [0, 4, 8, 12] and history.margins.shape == (4, 50)
    assert history.margins[0].abs().max() < 1e-5
    last = score_pairs(job, some).reward_margins
    torch.testing.assert_close(history.margins[-1], last, rtol=0, atol=1e-5)
    assert last.abs().max() > 1e-3


def test_every_row_of_the_histogram_holds_every_pair_and_zero_is_an_edge(run) -> None:
    history = run[2]
    for bins in (1, 7, 50):
        edges, counts = history.histogram(bins)
        assert counts.shape == (4, len(edges) - 1)
        assert counts.sum(dim=1).tolist() == [50] * 4
        assert 0 in edges.tolist() and (edges.diff() > 0).all()
        below = counts[:, edges[1:] <= 1e-12].sum(dim=1)
        assert below.tolist() == [(row < 0).sum().item() for row in history.margins]


def test_counts_and_shares_by_hand(run) -> None:
    history = MarginHistory(PAIRS, [0])
    history._job = run[0]
    history.steps, history._rows = [0], [torch.tensor([-1.0, -0.25, 0.0, 0.5, 2.9, 3.0])]
    edges, counts = history.histogram(bins=4)
    assert edges.tolist() == [-1, 0, 1, 2, 3, 4] or edges.tolist()[:5] == [-1, 0, 1, 2, 3]
    assert counts[0, :4].tolist() == [2, 2, 0, 1] and counts.sum() == 6
    assert history.share_below_zero.tolist() == pytest.approx([2 / 6])


def test_no_step_and_no_run_are_refused() -> None:
    with pytest.raises(ValueError, match="name at least one step"):
        MarginHistory(PAIRS, [])
    with pytest.raises(ValueError, match="no step was scored"):
        _ = MarginHistory(PAIRS, [0]).margins
