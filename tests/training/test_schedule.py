"""The learning rate of each step, against values derived by hand."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st

from dpo_lab.data.tokenized_pairs import tokenize_pairs
from dpo_lab.models.loading import load_model
from dpo_lab.models.reward import new_reward_model
from dpo_lab.training import reward
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.loop import train
from dpo_lab.training.reward import RewardTraining, train_reward_model
from dpo_lab.training.schedule import schedule_factor
from dpo_lab.training.setup import load_data, prepare
from dpo_lab.training.sft import supervised_finetune

KINDS = ("constant", "linear", "cosine")
HALF_ROOT = math.sqrt(0.5)
BY_HAND = {
    # Three steps of warm-up, quarters of the peak; then fifths of it, from five down to one.
    ("linear", 3, 8): [1 / 4, 2 / 4, 3 / 4, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5],
    # One step at a half; then half of 1 + cos of 0, 45, 90 and 135 degrees.
    ("cosine", 1, 5): [1 / 2, 1, (1 + HALF_ROOT) / 2, 1 / 2, (1 - HALF_ROOT) / 2],
    ("constant", 2, 4): [1 / 3, 2 / 3, 1, 1],
    ("linear", 0, 1): [1],
    ("cosine", 2, 2): [1 / 3, 2 / 3],
}


@pytest.mark.parametrize(("how", "expected"), BY_HAND.items(), ids=str)
def test_every_step_by_hand(how, expected):
    kind, warmup, total = how
    rates = [schedule_factor(kind, done, warmup, total) for done in range(total)]
    assert rates == pytest.approx(expected, abs=1e-12)


@given(st.sampled_from(KINDS), st.integers(1, 200), st.integers(0, 210))
def test_no_step_stands_still_and_none_is_above_the_peak(kind, total, warmup):
    rates = [schedule_factor(kind, done, warmup, total) for done in range(total)]
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_of_a_run_moves_the_policy(kind):
    config = TrainConfig(
        steps=10, batch_pairs=4, limit=40, eval_every=0, eval_pairs=0, schedule=kind,
        learning_rate=1e-3, warmup_steps=3,
    )  # fmt: skip
    job = prepare(config)
    before, rates = None, []
    for record in train(job):
        now = torch.cat([p.detach().flatten() for p in job.policy.model.parameters()])
        assert before is None or not torch.equal(now, before)
        before = now
        rates.append(record.learning_rate)
    by_hand = [1e-3 * schedule_factor(kind, done, 3, 10) for done in range(10)]
    assert rates == pytest.approx(by_hand, rel=1e-12)


def test_the_first_step_of_fine_tuning_moves_the_model():
    model = load_model("micro", device="cpu")
    before = torch.cat([p.detach().flatten() for p in model.model.parameters()])
    examples = [("the plot was", "good"), ("the music was", "dull")]
    next(supervised_finetune(model, examples, steps=20, batch_size=2, warmup_steps=10))
    after = torch.cat([p.detach().flatten() for p in model.model.parameters()])
    # Adam's first step is the learning rate, wherever the gradient is no zero: 1e-3 / 11.
    assert (after - before).abs().max().item() == pytest.approx(1e-3 / 11, rel=1e-2)


def test_a_reward_model_sees_every_pair_once_an_epoch(monkeypatch):
    model = load_model("micro", device="cpu")
    config = replace(TrainConfig(), limit=10)
    pairs = tuple(tokenize_pairs(load_data(config)[0], model.tokenizer))
    seen = []

    def noted(reward_model, picked, first, budget):
        seen.append([pairs.index(pair) for pair in picked])
        return 0.0

    monkeypatch.setattr(reward, "_accumulate", noted)
    training = RewardTraining(epochs=2, batch_pairs=8)
    steps = list(train_reward_model(new_reward_model(model), pairs, training))
    assert [len(batch) for batch in seen] == [8, 8, 4] and len(steps) == training.steps(10) == 3
    shown = sum(seen, [])
    assert sorted(shown[:10]) == sorted(shown[10:]) == list(range(10))


@pytest.mark.parametrize("kind", KINDS)
def test_after_the_last_step_of_a_run_that_only_warms_up(kind):
    assert schedule_factor(kind, 3, 3, 3) == (1.0 if kind == "constant" else 0.0)


def test_fine_tuning_may_be_warm_up_alone():
    """Thirds of the peak: Adam's first step moves a weight by its learning rate."""
    lm = load_model("micro", device="cpu")
    before = torch.cat([p.detach().flatten() for p in lm.model.parameters()])
    pair = ("the plot was", "good")
    losses = supervised_finetune(lm, [pair], steps=2, batch_size=1, warmup_steps=2)
    assert next(losses) > 0
    now = torch.cat([p.detach().flatten() for p in lm.model.parameters()])
    assert (now - before).abs().max().item() == pytest.approx(1e-3 / 3, rel=1e-2)
    assert len(list(losses)) == 1
