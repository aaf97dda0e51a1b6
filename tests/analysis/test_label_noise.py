"""Wrong labels shrink what plain DPO finds; robust DPO brings its size back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dpo_lab.analysis.label_noise import under_noise
from dpo_lab.data.reviews import HELD_OUT_PROMPTS, reward as true_reward
from dpo_lab.models.loading import load_model
from dpo_lab.models.response_space import ResponseSpace, RewardFit
from dpo_lab.objective.optimum import optimal_logps


@pytest.fixture(scope="module")
def world() -> ResponseSpace:
    return ResponseSpace.of(load_model("micro"), HELD_OUT_PROMPTS[:3], true_reward)


def fit(world: ResponseSpace, logps: torch.Tensor) -> RewardFit:
    implicit = 0.7 * (logps - world.reference_logps)
    return RewardFit.of(implicit, world.rewards, world.reference_logps.exp())


def test_the_optimum_recovers_the_reward_whole_and_a_tempered_one_in_part(world):
    """pi* at twice the beta has half the implicit reward; the reference has none of it."""
    for factor, slope in ((1.0, 1.0), (2.0, 0.5)):
        logps = optimal_logps(world.reference_logps, world.rewards, beta=0.7 * factor)
        recovered = fit(world, logps)
        assert recovered.slope == pytest.approx(slope, abs=1e-9)
        assert recovered.correlation == pytest.approx(1, abs=1e-9)


def test_recovered_is_a_weighted_regression(world):
    """Against a plain weighted least-squares fit with an intercept of its own for each prompt."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(world.rewards.shape, generator=generator, dtype=torch.float64)
    logps = world.reference_logps + 0.3 * world.rewards + noise
    share = world.reference_logps.exp().sqrt().flatten()
    columns = [world.rewards.flatten()]
    for index in range(3):
        columns.append(
            torch.zeros_like(world.rewards).index_fill(0, torch.tensor(index), 1).flatten()
        )
    table = torch.stack(columns, dim=1) * share[:, None]
    target = 0.7 * (logps - world.reference_logps).flatten() * share
    slope = torch.linalg.lstsq(table, target[:, None]).solution[0].item()
    assert fit(world, logps).slope == pytest.approx(slope, rel=1e-6)


def test_a_policys_implicit_reward_is_of_its_own_log_ratios(world, micro):
    """The reference as the policy has none; a shaken one has what its log-probabilities say."""
    none = world.recovered(micro, beta=0.7)
    assert none.slope == pytest.approx(0, abs=1e-6)
    policy = load_model("micro")
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.mul_(1.1)
    assert world.recovered(policy, beta=0.7) == fit(world, world.logps(policy))


def test_words_are_counted_by_probability(world):
    one = replace(world, responses=("", "good", "very good"), reference_logps=torch.tensor(
        [[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]], dtype=torch.float64).log())  # fmt: skip
    assert one.words() == pytest.approx((0.75 + 2) / 2)


@pytest.mark.slow
def test_wrong_labels_shrink_plain_dpo_and_robust_dpo_undoes_it(world):
    size = {"pairs": 2000, "steps": 100, "seed": 5}
    clean, wrong = (under_noise(world, share, **size) for share in (0.0, 0.3))
    assert clean["plain"] == clean["robust"] == clean["conservative"]
    slopes = {name: one.slope / clean["plain"].slope for name, one in wrong.items()}
    assert slopes["conservative"] < slopes["plain"] < 0.6
    assert slopes["robust"] > 0.7
