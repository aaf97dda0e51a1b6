from __future__ import annotations

import math
from collections import Counter
from functools import partial

import pytest
import torch
from expected_labels import minimised, with_expected_labels

from dpo_lab.data.reviews import reward as true_reward
from dpo_lab.models.loading import load_model
from dpo_lab.models.response_space import ResponseSpace
from dpo_lab.objective.optimum import exact_kl, optimal_logps, rlhf_objective
from dpo_lab.objective.registry import LOSSES

PROMPTS = ["the acting felt", "the plot was"]


@pytest.fixture(scope="module")
def world(micro) -> ResponseSpace:
    return ResponseSpace.of(micro, PROMPTS, true_reward)


def test_it_lists_every_response_with_its_worth(world) -> None:
    assert world.reference_logps.shape == world.rewards.shape == (2, len(world.responses))
    assert len(set(world.responses)) == len(world.responses) == 1 + 37 + 37**2 + 37**3
    assert (world.reference_logps.exp().sum(-1) - 1).abs().max() < 1e-6
    index = world.responses.index("not very good")
    assert world.rewards[:, index].tolist() == [-0.75, -0.75]


def test_the_reference_stands_at_the_beginning_of_the_frontier(world, micro) -> None:
    point = world.point(micro)
    assert point.kl == pytest.approx(0, abs=1e-9) and math.isnan(point.gained)
    by_hand = (world.reference_logps.exp() * world.rewards).sum(-1).mean().item()
    assert point.reward == pytest.approx(by_hand) == pytest.approx(point.best_reward)


def test_a_policy_of_its_optimum_stands_on_the_frontier(world) -> None:
    best = (world.reference_logps + world.rewards / 0.7).log_softmax(-1)
    point = world.frontier.point(best)
    assert point.gained == pytest.approx(1) and point.reward == pytest.approx(point.best_reward)
    assert point.kl == pytest.approx(world.frontier.at(0.7).kl)


def _shares(rows: list[dict[str, str]]) -> Counter:
    return Counter((row["chosen"], row["rejected"]) for row in rows)


def _weights(world: ResponseSpace, **said: float) -> torch.Tensor:
    weights = torch.zeros_like(world.rewards)
    for text, share in said.items():
        weights[:, world.responses.index(text)] = share
    return weights


def test_pairs_come_as_often_as_asked_for_and_labels_from_bradley_terry(world) -> None:
    """Good (1) against dull (-1) wins with s(2), against bad (-1.5) with s(2.5)."""
    rows = world.pairs(_weights(world, good=1), _weights(world, dull=3, bad=1), 20_000, seed=3)
    found = _shares(rows)
    assert Counter(row["prompt"] for row in rows) == dict.fromkeys(PROMPTS, 10_000)
    for text, share, margin in (("dull", 0.75, 2.0), ("bad", 0.25, 2.5)):
        both = found["good", text] + found[text, "good"]
        assert both / 20_000 == pytest.approx(share, abs=3 * math.sqrt(share * (1 - share) / 2e4))
        wins = 1 / (1 + math.exp(-margin))
        error = math.sqrt(wins * (1 - wins) / both)
        assert found["good", text] / both == pytest.approx(wins, abs=3 * error)


def test_flipped_labels_are_turned_around_after_they_were_drawn(world) -> None:
    rows = world.pairs(_weights(world, superb=1), _weights(world, awful=1), 20_000, flipped=0.3)
    wins = 0.7 / (1 + math.exp(-4)) + 0.3 / (1 + math.exp(4))
    share = _shares(rows)["superb", "awful"] / 20_000
    assert share == pytest.approx(wins, abs=3 * math.sqrt(wins * (1 - wins) / 20_000))


def test_pairs_hold_two_answers_and_a_seed_gives_the_same_again(world) -> None:
    weights = _weights(world, good=1, bad=1)
    weights[:, world.responses.index("")] = 100
    rows = world.pairs(weights, weights, 101, seed=5)
    assert sorted(Counter(row["prompt"] for row in rows).values()) == [50, 51]
    assert len(rows) == 101 and set(_shares(rows)) == {("good", "bad"), ("bad", "good")}
    assert rows == world.pairs(weights, weights, 101, seed=5)
    assert rows != world.pairs(weights, weights, 101, seed=6)


def test_weights_that_allow_no_pair_are_refused(world) -> None:
    good = _weights(world, good=1)
    for other in (good, torch.zeros_like(good)):
        with pytest.raises(ValueError, match="no pair of different responses"):
            world.pairs(good, other, 3)


def test_what_cannot_be_listed_is_refused(micro) -> None:
    with pytest.raises(ValueError, match="goes on after 1 words"):
        ResponseSpace.of(micro, PROMPTS, true_reward, max_words=1)
    with pytest.raises(ValueError, match="cannot all be enumerated"):
        ResponseSpace.of(micro, PROMPTS, true_reward, max_words=5)


def test_a_policy_that_goes_on_after_the_most_words_is_told_of(world, caplog):
    policy = load_model("micro", device="cpu")
    world.point(policy)
    assert not caplog.messages
    (end,) = policy.encoder.end_ids
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[end] *= -1
    world.point(policy)
    assert any("micro: goes on after 3 words in" in words for words in caplog.messages)


@pytest.fixture(scope="module")
def short(world) -> tuple[torch.Tensor, torch.Tensor]:
    """Micro's 1,407 answers of at most two words: log-probabilities among them, rewards."""
    kept = torch.tensor([len(text.split()) <= 2 for text in world.responses])
    return world.reference_logps[:, kept].log_softmax(-1), world.rewards[:, kept]


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_gradient_ascent_on_the_objective_reaches_the_optimum_of_micro(short, beta) -> None:
    reference, rewards = short
    reached = minimised(
        lambda policy: -rlhf_objective(policy, reference, rewards, beta).sum(), reference
    )
    optimum = optimal_logps(reference, rewards, beta)
    assert ((reached.exp() - optimum.exp()).abs().sum(-1) / 2).max() < 1e-4


def test_dpo_on_expected_labels_reaches_the_optimum_of_micro(short) -> None:
    """The project's own loss over all 989,121 pairs, each with its Bradley-Terry probability."""
    reference, rewards = short[0][0], short[1][0]
    loss = partial(LOSSES["sigmoid"], beta=1.0)
    reached = minimised(with_expected_labels(loss, reference, rewards), reference)
    assert exact_kl(reached, optimal_logps(reference, rewards, 1.0)).item() < 1e-6


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_no_policy_tried_beats_the_optimum_and_its_implicit_reward_is_the_reward(
    world, beta
) -> None:
    """On all 52,060 answers; each policy falls short by beta KL(pi || pi*), as it must."""
    reference, rewards = world.reference_logps, world.rewards
    optimum = optimal_logps(reference, rewards, beta)
    best = rlhf_objective(optimum, reference, rewards, beta)
    for seed in range(40):
        noise = torch.randn(rewards.shape, generator=torch.Generator().manual_seed(seed)).double()
        near = optimum if seed % 2 else reference
        policy = (near + noise * 10 ** (-seed % 4)).log_softmax(-1)
        value = rlhf_objective(policy, reference, rewards, beta)
        assert (value < best).all()
        torch.testing.assert_close(best - value, beta * exact_kl(policy, optimum))
    shift = beta * (optimum - reference) - rewards
    assert (shift - shift.mean(-1, keepdim=True)).abs().max() < 1e-6
