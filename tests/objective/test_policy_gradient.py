"""Policy gradients by expectation over every batch that can be sampled, against autograd on J."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from dpo_lab.objective.optimum import exact_kl, log_partition, rlhf_objective
from dpo_lab.objective.policy_gradient import (
    GRPO,
    RLOO,
    PolicyGradient,
    advantages,
    policy_gradient_loss,
)

BETA = 0.3
REWARDS = torch.tensor([0.0, 1.0, -0.5, 1.0, 2.0], dtype=torch.float64)
IDS = torch.tensor([[0, 0], [1, 0], [1, 1], [2, 0], [2, 2]])
"""Five responses of at most two tokens; the first is one token long."""
MASK = torch.tensor([[True, False], *[[True, True]] * 4])


def token_logps(logits):
    """`(5, 2)`: the first token's logits in row 0, the second's in the row of the first."""
    first = logits[0].log_softmax(-1)[IDS[:, 0]]
    # After 1 come 0 or 1, after 2 come 0 or 2: nothing else is possible.
    allowed = torch.tensor([[True, True, True], [True, True, False], [True, False, True]])
    second = logits.masked_fill(~allowed, -torch.inf).log_softmax(-1)[IDS[:, 0], IDS[:, 1]]
    return torch.stack([first, torch.where(MASK[:, 1], second, 0.0)], dim=-1)


@pytest.fixture
def world():
    generator = torch.Generator().manual_seed(3)
    logits, fixed = torch.randn(2, 3, 3, dtype=torch.float64, generator=generator)
    return logits.requires_grad_(), token_logps(fixed)


def expected_gradient(world, k: int, how: PolicyGradient, rewards=REWARDS) -> torch.Tensor:
    """Of the loss, over all `5^k` groups, each weighed by its probability."""
    logits, reference = world
    policy = token_logps(logits)
    groups = torch.tensor(list(product(range(5), repeat=k)))
    losses = policy_gradient_loss(
        policy[groups], reference[groups], MASK[groups], rewards[groups], BETA, how
    )
    weight = policy.detach().sum(-1)[groups].sum(-1).exp()
    assert weight.sum() == pytest.approx(1, abs=1e-12)
    return torch.autograd.grad((weight * losses.mean(-1)).sum(), logits)[0]


def gradient_of_j(world) -> torch.Tensor:
    logits, reference = world
    policy = token_logps(logits).sum(-1)
    return torch.autograd.grad(rlhf_objective(policy, reference.sum(-1), REWARDS, BETA), logits)[0]


@pytest.mark.parametrize("k", [2, 3, 4])
def test_rloo_descends_minus_j(world, k):
    torch.testing.assert_close(
        expected_gradient(world, k, RLOO), -gradient_of_j(world), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("k", [2, 3])
def test_the_mean_baseline_takes_a_kth_of_it_away(world, k):
    found = expected_gradient(world, k, replace(RLOO, baseline="mean"))
    torch.testing.assert_close(found, -gradient_of_j(world) * (k - 1) / k, rtol=0, atol=1e-12)


def test_no_baseline_and_k2_of_sequences_as_a_loss_have_the_same_mean(world):
    for how in (replace(RLOO, baseline="none"), replace(RLOO, estimator="k2", place="loss")):
        found = expected_gradient(world, 2, how)
        torch.testing.assert_close(found, -gradient_of_j(world), rtol=0, atol=1e-12)


def test_k3_of_sequences_as_a_loss_descends_the_other_kl(world):
    logits, reference = world
    found = expected_gradient(world, 2, replace(RLOO, estimator="k3", place="loss"))
    policy, whole = token_logps(logits).sum(-1), reference.sum(-1)
    other = BETA * exact_kl(whole, policy) - (policy.exp() * REWARDS).sum()
    torch.testing.assert_close(found, torch.autograd.grad(other, logits)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "how",
    [
        replace(RLOO, estimator="k1", place="loss"),
        replace(RLOO, estimator="k3"),
        replace(RLOO, unit="token"),
        replace(RLOO, unit="token", estimator="k2", place="loss"),
        GRPO,
        replace(RLOO, deviation=True),
    ],
    ids=str,
)
def test_the_other_placements_do_not(world, how):
    """Nor is it a multiple, as that of a mean baseline would be."""
    found, right = expected_gradient(world, 2, how), -gradient_of_j(world)
    right = right * (found * right).sum() / right.square().sum()
    assert (found - right).norm() > 1e-3 * right.norm()  # of arithmetic exact to 1e-12


@pytest.mark.parametrize("baseline", ["mean", "leave-one-out"])
def test_equal_rewards_move_nothing_exactly(world, baseline):
    rewards = torch.full((6, 7), 0.1)
    for deviation in (False, True):
        assert torch.equal(advantages(rewards, baseline, deviation), torch.zeros(6, 7))
    logits, reference = world
    how = PolicyGradient(baseline, "k2", "loss")
    group = torch.tensor([[0, 1, 4]])
    policy = token_logps(logits)[group]
    losses = policy_gradient_loss(
        policy, policy.detach(), MASK[group], torch.full((1, 3), 0.7), BETA, how
    )
    assert torch.equal(
        torch.autograd.grad(losses.sum(), logits)[0], torch.zeros(3, 3, dtype=torch.float64)
    )


def test_advantages_by_hand():
    rewards = torch.tensor([[1.0, 2.0, 6.0]])
    assert advantages(rewards, "none").tolist() == [[1, 2, 6]]
    assert advantages(rewards, "mean").tolist() == [[-2, -1, 3]]
    assert advantages(rewards, "leave-one-out").tolist() == [[-3, -1.5, 4.5]]
    assert advantages(rewards, "mean", True)[0, 2].item() == pytest.approx(3 / (7**0.5 + 1e-4))


def test_wrong_shapes_and_a_group_of_one_are_refused(world):
    one = torch.zeros(2, 1, 3)
    for how in (RLOO, GRPO, replace(RLOO, baseline="mean")):
        with pytest.raises(ValueError, match="k=1 responses a prompt: there are no others"):
            policy_gradient_loss(one, one, one == 0, torch.zeros(2, 1), BETA, how)
    with pytest.raises(ValueError, match=r"rewards \(3, 1\): the first three are"):
        policy_gradient_loss(one, one, one == 0, torch.zeros(3, 1), BETA)


def where_it_ends(world, how: PolicyGradient, beta: float, steps: int = 4000) -> torch.Tensor:
    """`(5,)`: the policy after many steps of Adam along exact expected gradients."""
    logits, reference = world
    logits = logits.detach().clone().requires_grad_()
    groups = torch.tensor(list(product(range(5), repeat=2)))
    descent = torch.optim.Adam([logits], lr=0.1, betas=(0.9, 0.99))
    falling = torch.optim.lr_scheduler.ExponentialLR(descent, 0.002 ** (1 / steps))
    for _ in range(steps):
        policy = token_logps(logits)
        losses = policy_gradient_loss(
            policy[groups], reference[groups], MASK[groups], REWARDS[groups], beta, how
        )
        weight = policy.detach().sum(-1)[groups].sum(-1).exp()
        descent.zero_grad()
        (weight * losses.mean(-1)).sum().backward()
        descent.step()
        falling.step()
    return token_logps(logits).detach().sum(-1)


def missing(world, policy, beta: float) -> float:
    """How much of J is missing at the end, in the unit of what there is to gain."""
    reference = world[1].sum(-1)
    best = beta * log_partition(reference, REWARDS, beta)
    start = (reference.exp() * REWARDS).sum()
    return ((best - rlhf_objective(policy, reference, REWARDS, beta)) / (best - start)).item()


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("how", [RLOO, replace(RLOO, estimator="k2", place="loss")], ids=str)
def test_trained_long_it_ends_at_pi_star(world, how, beta):
    assert 0 <= missing(world, where_it_ends(world, how, beta), beta) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.3, 1.0, 3.0])
def test_k3_of_sequences_as_a_loss_ends_at_a_closed_form_of_its_own(world, beta):
    """`beta KL(ref, pi) - E[r]` is least at `pi = ref / (l - r / beta)`, whose sum l makes 1."""
    ended = where_it_ends(world, replace(RLOO, estimator="k3", place="loss"), beta).exp()
    reference = world[1].sum(-1).exp()
    low, high = REWARDS.max().item() / beta, REWARDS.max().item() / beta + 10
    for _ in range(200):
        middle = (low + high) / 2
        total = (reference / (middle - REWARDS / beta)).sum()
        low, high = (middle, high) if total > 1 else (low, middle)
    torch.testing.assert_close(ended, reference / (low - REWARDS / beta), rtol=0, atol=1e-3)
    assert missing(world, ended.log(), beta) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        replace(RLOO, unit="token"),
        replace(RLOO, unit="token", estimator="k2", place="loss"),
        replace(RLOO, unit="token", estimator="k3", place="loss"),
        replace(RLOO, unit="token", estimator="k3", place="loss", deviation=True),
    ],
    ids=str,
)
def test_own_token_forms_end_elsewhere(world, how):
    ended = where_it_ends(world, how, 1.0)
    assert missing(world, ended, 1.0) > 1e-3


@pytest.mark.slow
def test_a_mean_baseline_makes_a_kl_outside_of_it_weigh_more(world):
    """With two answers twice as much: it ends at pi* of twice the beta."""
    how = replace(RLOO, baseline="mean", estimator="k2", place="loss")
    ended = where_it_ends(world, how, 0.5)
    assert missing(world, ended, 1.0) < 1e-3 < 0.01 < missing(world, ended, 0.5)


def test_nothing_flows_into_the_reference_or_from_where_the_mask_is_false(world):
    logits, reference = world
    reference = reference.clone().requires_grad_()
    policy = torch.where(MASK, token_logps(logits), torch.nan)[None]
    policy_gradient_loss(
        policy, reference[None], MASK[None], REWARDS[None], BETA, GRPO
    ).sum().backward()
    assert reference.grad is None and logits.grad.isfinite().all()
