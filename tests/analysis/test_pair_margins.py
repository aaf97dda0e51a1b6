"""Scores of pairs by hand; planted flips found again, as well as by the true reward."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dpo_lab import TrainConfig, prepare, train
from dpo_lab.analysis.cross_fit import cross_fitted_scores
from dpo_lab.analysis.pair_margins import (
    ORDERS,
    PairMargins,
    mean_scores,
    precision_at,
    score_pairs,
)
from dpo_lab.data.flips import flip_labels
from dpo_lab.data.pair_ids import TokenizedPair
from dpo_lab.data.preferences import load_preferences, preferences_from_rows
from dpo_lab.data.tokenized_pairs import TokenizedPairs
from dpo_lab.objective.pair_logps import PairLogps
from dpo_lab.training.control import RunControl
from dpo_lab.training.metrics import pair_metrics

QUIET = {"eval_every": 0, "eval_pairs": 0, "kl_samples": 0, "sample_prompts": 0, "held_out": 0.0}
BY_MODEL = TrainConfig(batch_pairs=64, steps=400, micro_batch_tokens=8192, **QUIET)


@pytest.fixture
def scores() -> PairMargins:
    """Three pairs, in nats.

    | pair | policy w, l | reference w, l | before | after | margin | beta x margin |
    |---|---|---|---|---|---|---|
    | 0 | -2, -4 | -3, -2 | -1 | 2 | 3 | 1.5 |
    | 1 | -6, -5 | -3, -4 | 1 | -1 | -2 | -1 |
    | 2 | -9, -5 | -8, -3 | -5 | -4 | 1 | 0.5 |
    """
    rows = [
        {"prompt": "p", "chosen": chosen, "rejected": rejected}
        for chosen, rejected in (("aa", "b"), ("a", "bb"), ("aaa", "b"))
    ]
    preferences = preferences_from_rows(rows, reward_fn=lambda prompt, text: len(text))
    tokens = TokenizedPairs(tuple(TokenizedPair((5,), (6, 1), (7, 1), i) for i in (1, 2, 3)))
    sides = ([-2, -6, -9], [-4, -5, -5], [-3, -3, -8], [-2, -4, -3])
    logps = PairLogps(*(torch.tensor(side, dtype=torch.float32) for side in sides))
    return PairMargins(preferences, tokens, logps, beta=0.5)


def test_margins_and_probabilities_by_hand(scores: PairMargins) -> None:
    assert scores.before.tolist() == [-1, 1, -5] and scores.after.tolist() == [2, -1, -4]
    assert scores.reward_margins.tolist() == [1.5, -1, 0.5]
    right = [1 / (1 + math.exp(-margin)) for margin in (1.5, -1, 0.5)]
    assert scores.label_probability.tolist() == pytest.approx(right)
    assert scores.true_margins().tolist() == [1, -1, 2]


def test_orders_by_hand(scores: PairMargins) -> None:
    assert scores.order("disagreement").tolist() == [1, 2, 0]
    assert scores.order("log-probability").tolist() == [2, 1, 0]
    assert scores.order("change").tolist() == [0, 1, 2]
    assert (scores.label_probability[scores.order()].diff() >= 0).all()
    with pytest.raises(ValueError, match="by='luck': unknown order"):
        scores.order("luck")
    assert set(ORDERS) == {"disagreement", "log-probability", "change"}


def test_precision_by_hand(scores: PairMargins) -> None:
    wanted = torch.tensor([False, True, True])
    assert precision_at(torch.tensor([1, 0, 2]), wanted) == 0.5
    assert precision_at(torch.tensor([1, 0, 2]), wanted, count=1) == 1
    with pytest.raises(ValueError, match="count=0"):
        precision_at(torch.tensor([1, 0, 2]), torch.zeros(3, dtype=torch.bool))
    without = replace(scores, preferences=replace(scores.preferences, reward_fn=None))
    with pytest.raises(ValueError, match="no ground-truth score"):
        without.true_margins()


def test_the_mean_of_two_runs_by_hand(scores: PairMargins) -> None:
    moved = replace(scores.logps, policy_chosen=scores.logps.policy_chosen + 2)
    mean = mean_scores([scores, replace(scores, logps=moved)])
    assert mean.reward_margins.tolist() == [2, -0.5, 1] and mean.before.tolist() == [-1, 1, -5]
    for wrong in ([], [scores, replace(scores, beta=1.0)]):
        with pytest.raises(ValueError, match="all of the same pairs at one beta"):
            mean_scores(wrong)


@pytest.mark.parametrize("ld_alpha", [None, 0.0, 0.5])
def test_scores_are_what_the_run_itself_reports(ld_alpha: float | None) -> None:
    """Also where what the longer answer has more counts less: by the loss's own weights."""
    pairs = replace(reviews := load_preferences("reviews"), pairs=reviews.pairs[:64])
    config = replace(
        BY_MODEL, steps=4, batch_pairs=64, schedule="constant", warmup_steps=0, ld_alpha=ld_alpha
    )
    job = prepare(config, data=pairs, keep_reference=True)
    before = score_pairs(job, pairs)
    assert not before.reward_margins.any() and before.order().tolist() == list(range(64))
    *_, last = _seen_before_each_step(job, pairs)
    values, record = last
    for key in (
        "rewards/margins",
        "rewards/chosen",
        "logratios/rejected",
        "logratios/chosen_negative",
    ):
        assert values[key] == pytest.approx(record.values[key], abs=1e-5)


def test_tails_that_count_nothing_change_the_scores() -> None:
    pairs = replace(reviews := load_preferences("reviews"), pairs=reviews.pairs[:40])
    job = prepare(replace(BY_MODEL, steps=4, batch_pairs=40), data=pairs, keep_reference=True)
    list(train(job))
    whole = score_pairs(job, pairs)
    cut = score_pairs(replace(job, config=replace(job.config, ld_alpha=0.0)), pairs)
    same = torch.tensor([len(pair.chosen) == len(pair.rejected) for pair in whole.tokens])
    torch.testing.assert_close(cut.reward_margins[same], whole.reward_margins[same])
    assert 0 < same.sum() < 40
    assert (cut.before - whole.before).abs().max() > 1


def test_beta_is_the_one_that_the_run_ended_with_and_another_can_be_given() -> None:
    pairs = replace(reviews := load_preferences("reviews"), pairs=reviews.pairs[:40])
    job = prepare(replace(BY_MODEL, steps=4, batch_pairs=40), data=pairs, keep_reference=True)
    control = RunControl()
    betas = []
    for record in train(job, control=control):
        control.set(beta=2.0)
        betas.append(record.beta)
    found, plain = score_pairs(job, pairs), score_pairs(job, pairs, 0.1)
    assert betas[-1] == found.beta == 2.0 and plain.beta == job.config.beta == 0.1
    torch.testing.assert_close(found.reward_margins, 20 * plain.reward_margins)
    with pytest.raises(ValueError, match="beta=0: must be > 0. Take the beta that the run ended"):
        score_pairs(job, pairs, 0)


def _seen_before_each_step(job, pairs):
    """Metrics of all pairs, which make one batch, and the record of the step that comes next."""
    run = train(job)
    found = score_pairs(job, pairs)
    for record in run:
        losses, logps = -torch.nn.functional.logsigmoid(found.reward_margins), found.logps
        values = pair_metrics(losses, logps, torch.zeros(len(found)), found.beta)
        yield values, record
        found = score_pairs(job, pairs)


def test_cross_fitting_scores_each_pair_once_in_its_place_by_a_run_without_it() -> None:
    pairs = replace(reviews := load_preferences("reviews"), pairs=reviews.pairs[:60])
    config = replace(BY_MODEL, steps=5, batch_pairs=16, seed=1)
    found = cross_fitted_scores(config, pairs, folds=3, seed=2)
    assert found.preferences.pairs == pairs.pairs
    assert [one.row for one in found.tokens] == [pair.row for pair in pairs]
    # The first fold again, by hand.
    order = torch.randperm(60, generator=torch.Generator().manual_seed(2)).tolist()
    fold = order[0::3]
    job = prepare(config, data=replace(pairs, pairs=tuple(
        pair for index, pair in enumerate(pairs) if index not in fold
    )), keep_reference=True)  # fmt: skip
    list(train(job))
    whole = score_pairs(job, pairs)
    torch.testing.assert_close(
        found.reward_margins[fold], whole.reward_margins[fold], rtol=0, atol=1e-5
    )
    assert whole.reward_margins[fold].abs().max() > 1e-3
    with pytest.raises(ValueError, match="folds=1: must be between 2"):
        cross_fitted_scores(config, pairs, folds=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 11])
def test_planted_flips_are_found_nearly_as_well_as_by_the_true_reward(seed: int) -> None:
    """10 % of 4,000 labels, on top of the noise that Bradley-Terry labels have by nature.

    A quarter of all labels goes against the true reward before any is flipped, so that even the
    oracle, who ranks by it, finds less than half of the planted ones among the first 400.
    """
    pairs, flipped = flip_labels(load_preferences("reviews"), 0.1, seed)
    runs = []
    for order in range(3):
        job = prepare(replace(BY_MODEL, seed=order), data=pairs, keep_reference=True)
        list(train(job))
        runs.append(score_pairs(job, pairs))
    scores = mean_scores(runs)
    oracle = precision_at(scores.true_margins().argsort(stable=True), flipped)
    assert 0.3 < oracle < 0.6
    assert precision_at(scores.order("disagreement"), flipped) >= 0.9 * oracle
    if seed == 0:
        assert precision_at(runs[0].order(), flipped) >= 0.9 * oracle
        unseen = cross_fitted_scores(BY_MODEL, pairs, folds=3)
        assert precision_at(unseen.order(), flipped) >= 0.9 * oracle
