"""A reward model trained on noisy pairs against the reward that the pairs were labelled with."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dpo_lab import TrainConfig, prepare
from dpo_lab.data.held_out import load_train_and_held_out
from dpo_lab.data.reviews import HELD_OUT_PROMPTS, reward as true_reward
from dpo_lab.data.tokenized_pairs import tokenize_pairs
from dpo_lab.models.enumeration import enumerate_responses
from dpo_lab.models.loading import load_model
from dpo_lab.models.reward import RewardEnsemble, new_reward_model
from dpo_lab.objective.bradley_terry import expected_accuracy
from dpo_lab.training.evaluation import evaluate
from dpo_lab.training.reward import RewardTraining, reward_margins, train_reward_model

LIKELY = 1500
"""Responses of a prompt that are compared: the likeliest, more than 97 % of what is said."""


def _correlation(weights: torch.Tensor, found: torch.Tensor, true: torch.Tensor) -> float:
    found, true = found - (weights * found).sum(), true - (weights * true).sum()
    both = (weights * found * true).sum()
    return (both / ((weights * found**2).sum() * (weights * true**2).sum()).sqrt()).item()


@pytest.mark.slow
def test_it_ranks_almost_as_well_as_the_true_reward_and_goes_along_with_it() -> None:
    micro = load_model("micro")
    train, held_out = load_train_and_held_out("reviews")
    pairs, unseen = (tokenize_pairs(some, micro.tokenizer) for some in (train, held_out))
    members = []
    for seed in range(3):
        members.append(new_reward_model(micro, seed))
        how = replace(RewardTraining.for_model(micro), seed=seed)
        losses = list(train_reward_model(members[-1], pairs, how))
        assert losses[0] == pytest.approx(math.log(2), abs=0.05) and len(losses) == how.steps(4000)
    reward = RewardEnsemble(members)
    true = torch.tensor(
        [true_reward("", pair.chosen) - true_reward("", pair.rejected) for pair in held_out]
    )
    best = expected_accuracy(true, true)
    assert expected_accuracy(reward_margins(reward, unseen), true) > best - 0.01
    correlations = []
    for ids in micro.encoder.prompts(list(HELD_OUT_PROMPTS)):
        said = enumerate_responses(micro, ids, then_ends=True)
        likely = said.logps.topk(LIKELY).indices
        weights = said.logps[likely].exp()
        assert weights.sum() > 0.97
        texts = [said.text(micro, index) for index in likely.tolist()]
        responses = micro.encoder.responses([""] * LIKELY, texts)
        found = reward.rewards_of_ids([(ids, response) for response in responses]).double()
        truth = torch.tensor([true_reward("", text) for text in texts], dtype=torch.float64)
        correlations.append(_correlation(weights / weights.sum(), found, truth))
    assert sum(correlations) / len(correlations) > 0.98


def test_micro_batches_change_nothing_but_memory() -> None:
    micro = load_model("micro")
    train, _ = load_train_and_held_out("reviews")
    pairs = tokenize_pairs(train, micro.tokenizer)[:96]
    losses = []
    for budget in (4096, 40):
        how = replace(RewardTraining.for_model(micro), epochs=2, micro_batch_tokens=budget)
        losses.append(list(train_reward_model(new_reward_model(micro), pairs, how)))
    assert len(losses[0]) == 6 and losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_it_serves_as_the_score_of_a_run() -> None:
    reward = new_reward_model(load_model("micro"))
    job = prepare(TrainConfig(steps=1, kl_samples=20), reward_fn=reward)
    values = evaluate(job, 0.1, seed=0)
    assert abs(values["score/policy"]) < 1 and values["score/policy_stderr"] > 0
