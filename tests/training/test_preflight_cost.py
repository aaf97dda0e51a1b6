"""`check_data` beside what training makes of the same data."""

import math

import pytest

from dpo_lab.data.preferences import load_preferences
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.estimate import estimate
from dpo_lab.training.preflight import check_data
from dpo_lab.training.setup import load_data


def test_steps_and_memory_are_those_of_a_run():
    found = check_data("reviews", "micro", batch_pairs=48, epochs=2)
    config = TrainConfig(batch_pairs=48, epochs=2)
    train, held_out = load_data(config)
    assert (found.data.trained, found.data.held_out) == (len(train), len(held_out))
    assert found.cost.steps == math.ceil(2 * len(train) / 48)
    assert found.cost.memory_gb == pytest.approx(estimate(config).total_gb, rel=0.02)


def test_a_loaded_model_and_pairs_in_memory_go_as_well(micro):
    pairs = load_preferences("reviews", limit=50)
    by_name = check_data("reviews", "micro", rows=50, cost=False, held_out=0.0)
    loaded = check_data(pairs, micro, held_out=0.0)
    assert loaded.cost is None and "handed over" in loaded.why_no_cost
    assert loaded.data.usable == by_name.data.usable == 50
    assert (
        loaded.data.lengths["pair"].counts.tolist() == by_name.data.lengths["pair"].counts.tolist()
    )


def test_an_on_policy_method_says_why_there_is_no_cost():
    found = check_data("reviews", "micro", rows=20, method="rloo")
    assert repr(found).startswith("reviews: 40 rows, 40 pairs can be used")
    assert found.cost is None and "what its samples take is not estimated" in found.why_no_cost
