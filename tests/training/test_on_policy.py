"""Policy gradients of the real sampler and scorer against the exact gradient of J, on micro."""

from dataclasses import replace

import pytest
import torch

from dpo_lab.models.response_space import ResponseSpace
from dpo_lab.models.sampling import sample
from dpo_lab.objective.optimum import rlhf_objective
from dpo_lab.objective.policy_gradient import RLOO
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.groups import Groups, NotThePolicy, rewarded
from dpo_lab.training.on_policy import group_losses
from dpo_lab.training.setup import prepare

BETA = 1.0
BATCHES = 2000
TOGETHER = 100
"""Batches whose answers are drawn in one call; each answer has random numbers of its own."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A policy some way from its reference, and the space of all its answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPO_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        config = TrainConfig(model="micro", data="reviews", steps=1, limit=50, eval_every=0)
        job = prepare(replace(config, device="cpu"), keep_reference=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in job.policy.model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.03)
    with job.reference.active() as reference:
        model = reference.language_model
        return job, ResponseSpace.of(model, job.prompts[:5], job.reward_fn)


@pytest.fixture(autouse=True)
def without_gradient(world):
    world[0].policy.model.zero_grad()


def sampled(job, scorer, prompts, k, reward_fn, seed) -> Groups:
    """Several answers of a scorer's model to each prompt."""
    model, repeated = scorer.language_model, [prompt for prompt in prompts for _ in range(k)]
    answers = sample(model, model.encoder.prompts(repeated), seed=seed, with_logps=True)
    return rewarded(job, reward_fn, repeated, answers, k)


def losses_of(job, groups, beta, how=RLOO) -> torch.Tensor:
    return group_losses(job.scorer, job.reference, groups, beta, how)[0]


def gradient(job) -> torch.Tensor:
    weights = list(job.policy.model.parameters())
    found = torch.cat([weight.grad.flatten() for weight in weights])
    for weight in weights:
        weight.grad = None
    return found


@pytest.mark.slow
def test_the_exact_gradient_is_that_of_small_differences(world):
    """Of each weight by itself, along its own gradient, at one prompt."""
    job, space = world
    one = replace(
        space,
        prompts=space.prompts[:1],
        reference_logps=space.reference_logps[:1],
        rewards=space.rewards[:1],
    )
    exact = one.objective(job.policy, BETA)
    expected = rlhf_objective(one.logps(job.policy), one.reference_logps, one.rewards, BETA)
    assert exact.item() == pytest.approx(expected.mean().item(), abs=1e-6)
    exact.backward()
    for name, weight in job.policy.model.named_parameters():
        slope, values, before = weight.grad.norm().item(), [], weight.detach().clone()
        with torch.no_grad():
            for step in (1e-3, -1e-3):
                weight.copy_(before + weight.grad * (step / slope))
                values.append(one.objective(job.policy, BETA).item())
            weight.copy_(before)
        assert (values[0] - values[1]) / 2e-3 == pytest.approx(slope, rel=2e-2), name


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 4, 8])
def test_rloo_descends_minus_the_exact_gradient(world, k):
    """Within three standard errors along it, along its KL's part, and along five random ones."""
    job, space = world
    space.objective(job.policy, BETA).backward()
    exact = gradient(job)
    space.objective(job.policy, 2 * BETA).backward()
    of_kl = exact - gradient(job)  # beta x the gradient of the KL
    directions = torch.randn(5, len(exact), generator=torch.Generator().manual_seed(k))
    directions = torch.cat([exact[None], of_kl[None], directions])
    directions /= directions.norm(dim=-1, keepdim=True)
    found = []
    for start in range(0, BATCHES, TOGETHER):
        prompts = list(space.prompts) * TOGETHER
        many = sampled(job, job.scorer, prompts, k, job.reward_fn, seed=start)
        for batch in range(TOGETHER):
            rows = slice(batch * len(space.prompts), (batch + 1) * len(space.prompts))
            answers = many.completions[rows.start * k : rows.stop * k]
            losses_of(job, Groups(answers, many.rewards[rows]), BETA).mean().backward()
            found.append(directions @ -gradient(job))
    found = torch.stack(found).double()
    errors = found.std(0) / BATCHES**0.5
    expected = (directions @ exact).double()
    assert ((found.mean(0) - expected).abs() < 3 * errors).all()
    assert errors[0] < 0.1 * expected[0]
    assert of_kl.norm() > 5 * errors[1], "without the KL it would be seen"


def test_groups_of_equal_rewards_move_nothing(world):
    job, space = world
    groups = sampled(job, job.scorer, space.prompts, 4, lambda prompt, answer: 0.7, seed=1)
    assert groups.equal == 1.0
    how = replace(RLOO, estimator="k1", place="loss")  # no KL in the reward, which would differ
    losses_of(job, groups, 1e-30, how).mean().backward()
    assert gradient(job).abs().max() < 1e-20


def test_answers_of_another_policy_are_refused(world):
    job, space = world
    with job.reference.active() as reference:
        groups = sampled(job, reference, space.prompts, 2, job.reward_fn, seed=0)
    ours = sampled(job, job.scorer, space.prompts, 2, job.reward_fn, seed=0)
    mixed = replace(ours, completions=(*ours.completions[:9], groups.completions[9]))
    ids = [answer.prompt for answer in ours.completions]
    for temperature in (0.0, 0.5, 2.0):
        drawn = sample(job.policy, ids, temperature=temperature, with_logps=True)
        with pytest.raises(NotThePolicy, match="these are no samples of this policy"):
            losses_of(job, replace(ours, completions=tuple(drawn)), BETA)
    for others in (groups, mixed):
        with pytest.raises(NotThePolicy, match="these are no samples of this policy"):
            losses_of(job, others, BETA)
    bare = tuple(replace(answer, logps=()) for answer in ours.completions)
    with pytest.raises(NotThePolicy, match="answers without the log-probabilities"):
        losses_of(job, replace(ours, completions=bare), BETA)
