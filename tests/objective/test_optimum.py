from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from expected_labels import minimised, with_expected_labels

from dpo_lab.objective.optimum import (
    Frontier,
    exact_kl,
    expected_reward,
    log_partition,
    optimal_logps,
    rlhf_objective,
)
from dpo_lab.objective.registry import LOSSES


@pytest.fixture
def world() -> tuple[torch.Tensor, torch.Tensor]:
    """Three prompts with sixty responses each: log-probabilities of the reference, rewards."""
    generator = torch.Generator().manual_seed(0)
    logps = torch.randn(3, 60, dtype=torch.float64, generator=generator).mul(2).log_softmax(-1)
    return logps, torch.randn(3, 60, dtype=torch.float64, generator=generator)


def test_by_hand() -> None:
    """Two responses of the reference, 1/4 and 3/4, with rewards ln 3 and 0 at beta 1."""
    reference = torch.tensor([0.25, 0.75], dtype=torch.float64).log()
    rewards = torch.tensor([math.log(3), 0.0], dtype=torch.float64)
    # Z = 1/4 * 3 + 3/4 = 3/2, so that pi* = (1/2, 1/2).
    assert log_partition(reference, rewards, 1.0).exp().item() == pytest.approx(1.5)
    optimum = optimal_logps(reference, rewards, 1.0)
    assert optimum.exp().tolist() == pytest.approx([0.5, 0.5])
    assert expected_reward(optimum, rewards).item() == pytest.approx(math.log(3) / 2)
    # 1/2 ln 2 + 1/2 ln(2/3)
    assert exact_kl(optimum, reference).item() == pytest.approx(math.log(2) - math.log(3) / 2)
    value = rlhf_objective(optimum, reference, rewards, 1.0).item()
    assert value == pytest.approx(math.log(1.5))


@pytest.mark.parametrize("beta", [0.05, 0.3, 1.0, 5.0])
def test_no_policy_beats_the_optimum_and_each_falls_short_by_beta_times_its_kl(world, beta) -> None:
    reference, rewards = world
    optimum = optimal_logps(reference, rewards, beta)
    torch.testing.assert_close(optimum.exp().sum(-1), torch.ones(3, dtype=torch.float64))
    best = rlhf_objective(optimum, reference, rewards, beta)
    torch.testing.assert_close(best, beta * log_partition(reference, rewards, beta))
    for seed in range(200):
        noise = torch.randn(3, 60, generator=torch.Generator().manual_seed(seed)).double()
        near = optimum if seed % 2 else reference
        policy = (near + noise * 10 ** (-seed % 4)).log_softmax(-1)
        value = rlhf_objective(policy, reference, rewards, beta)
        assert (value < best).all()
        torch.testing.assert_close(best - value, beta * exact_kl(policy, optimum))


def test_gradient_ascent_on_the_objective_reaches_the_optimum(world) -> None:
    reference, rewards = (part[:, :20].log_softmax(-1) for part in world)
    reached = minimised(
        lambda policy: -rlhf_objective(policy, reference, rewards, 0.5).sum(), reference
    )
    optimum = optimal_logps(reference, rewards, 0.5)
    variation = (reached.exp() - optimum.exp()).abs().sum(-1) / 2
    assert variation.max() < 1e-4


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_the_implicit_reward_of_the_optimum_is_the_reward_up_to_a_function_of_the_prompt(
    world, beta
) -> None:
    reference, rewards = world
    implicit = beta * (optimal_logps(reference, rewards, beta) - reference)
    shift = implicit - rewards
    assert (shift - shift.mean(-1, keepdim=True)).abs().max() < 1e-6
    torch.testing.assert_close(-shift[:, 0], beta * log_partition(reference, rewards, beta))


@pytest.mark.parametrize("beta", [0.3, 1.0, 3.0])
def test_dpo_on_expected_labels_reaches_the_optimum(world, beta) -> None:
    """The project's own loss, over every pair of responses with its Bradley-Terry probability."""
    reference, rewards = world[0][0], world[1][0]
    loss = partial(LOSSES["sigmoid"], beta=beta)
    reached = minimised(with_expected_labels(loss, reference, rewards), reference)
    assert exact_kl(reached, optimal_logps(reference, rewards, beta)).item() < 1e-6


def test_the_frontier_rises_with_the_kl_and_ends_at_the_best_responses(world) -> None:
    frontier = Frontier(*world)
    points = frontier.curve([math.inf, 30, 10, 3, 1, 0.3, 0.1, 0.01, 0])
    assert points[0].kl == 0
    assert points[0].reward == pytest.approx(expected_reward(*world).mean().item())
    for less, more in zip(points, points[1:], strict=False):
        assert more.kl > less.kl - 1e-9 and more.reward > less.reward - 1e-9
    assert points[-1].reward == pytest.approx(world[1].max(-1).values.mean().item())
    best = world[0].gather(1, world[1].argmax(-1, keepdim=True))
    assert points[-1].kl == pytest.approx(-best.mean().item())


@pytest.mark.parametrize("beta", [0.05, 0.7, 4.0])
def test_a_point_of_the_frontier_is_found_by_its_kl(world, beta) -> None:
    frontier = Frontier(*world)
    wanted = frontier.at(beta)
    found = frontier.at_kl(wanted.kl)
    assert found.beta == pytest.approx(beta, rel=1e-6)
    assert found.reward == pytest.approx(wanted.reward, rel=1e-9)
    optimum = optimal_logps(*world, beta)
    assert frontier.point(optimum).gained == pytest.approx(1)
    assert frontier.at_kl(1e3) == frontier.at(0) and frontier.at_kl(0).reward == pytest.approx(
        frontier.at(math.inf).reward, abs=1e-6
    )
    with pytest.raises(ValueError, match="never negative"):
        frontier.at_kl(-0.1)


def test_no_policy_is_beyond_the_frontier(world) -> None:
    frontier = Frontier(*world)
    for seed in range(50):
        noise = torch.randn(3, 60, generator=torch.Generator().manual_seed(seed)).double()
        policy = (world[0] + world[1] * seed / 10 + noise).log_softmax(-1)
        assert frontier.point(policy).gained < 1
    assert math.isnan(frontier.point(world[0]).gained)


def test_a_policy_that_says_some_responses_never_has_a_finite_kl(world) -> None:
    policy = world[0].masked_fill(world[1] < 0, -torch.inf).log_softmax(-1)
    share = world[0].exp().masked_fill(world[1] < 0, 0).sum(-1)
    torch.testing.assert_close(exact_kl(policy, world[0]), -share.log())


def test_the_objective_has_a_gradient_where_a_response_is_impossible():
    """Its derivative by the other logits is as without that response."""
    reference = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    rewards = torch.tensor([1.0, 0.0, 5.0], dtype=torch.float64)
    logits = torch.tensor([0.0, 1.0, -torch.inf], dtype=torch.float64, requires_grad=True)
    rlhf_objective(logits.log_softmax(-1), reference, rewards, 0.3).backward()
    two = logits.detach()[:2].clone().requires_grad_()
    rlhf_objective(two.log_softmax(-1), reference[:2], rewards[:2], 0.3).backward()
    assert logits.grad.tolist() == pytest.approx([*two.grad.tolist(), 0.0])
