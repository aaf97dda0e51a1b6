"""DPO on sampled labels against the exact optimum: loss, mask and loop at once."""

from __future__ import annotations

import pytest

from dpo_lab import TrainConfig, prepare, train
from dpo_lab.data.reviews import HELD_OUT_PROMPTS, PROMPTS, reward as true_reward
from dpo_lab.models.loading import LanguageModel, load_model
from dpo_lab.models.response_space import ResponseSpace


@pytest.fixture(scope="module")
def world() -> ResponseSpace:
    return ResponseSpace.of(load_model("micro"), PROMPTS, true_reward)


def _trained(rows: list[dict[str, str]], **settings) -> LanguageModel:
    config = TrainConfig(
        held_out=0.0, eval_every=0, eval_pairs=0, kl_samples=0, micro_batch_tokens=8192, **settings
    )
    job = prepare(config, data=rows)
    assert len(job.train) == len(rows)
    for _ in train(job):
        pass
    return job.policy


@pytest.mark.slow
def test_dpo_on_fresh_pairs_gains_what_the_frontier_gains_at_its_kl(world) -> None:
    """Every pair is seen once: as good as expected labels.

    DPO learns nothing of answers that no pair shows: trained on the reference's own alone, micro
    gives much of its probability to answers such as "great but superb", which the reference never
    says, and reaches 60 % of the frontier.
    """
    steps, batch = 1500, 256
    wide = world.said_and_rare
    rows = world.pairs(wide, wide, steps * batch, seed=1)
    policy = _trained(rows, beta=1.0, steps=steps, batch_pairs=batch, learning_rate=1e-3)
    # Held-out prompts are among those trained on here: the optimum of each is known.
    held_out = ResponseSpace.of(load_model("micro"), HELD_OUT_PROMPTS, true_reward)
    point, optimum = held_out.point(policy), held_out.frontier.at(1.0)
    assert point.reward >= 0.98 * point.best_reward and point.gained >= 0.98
    assert point.kl == pytest.approx(optimum.kl, rel=0.1)
    assert point.reward == pytest.approx(optimum.reward, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.3, 1.0, 3.0])
def test_dpo_on_60_000_labels_in_six_rounds_has_95_percent_of_the_frontiers_reward(
    world, beta
) -> None:
    """Each round but the first compares what the policy says that the rounds before it made.

    A small beta lets a policy go far, and rare answers may mislead it: there the policy that
    counts is trained no longer than those before it, whose answers were asked about. A large beta
    lets it go a little way only, which takes more steps to get right.
    """
    how = {"beta": beta, "batch_pairs": 128, "learning_rate": 1e-3}
    early, late = (800, 800) if beta < 1 else (400, 1500)
    wide = world.said_and_rare
    rows = world.pairs(wide, wide, 10_000, seed=1)
    for number in range(1, 6):
        said = world.logps(_trained(rows, steps=early, **how)).exp()
        rare = (world.reference_logps / 4).softmax(-1)
        rows += world.pairs(said, said + rare, 10_000, seed=1 + number)
    point = world.point(_trained(rows, steps=late, **how))
    assert point.reward >= 0.95 * point.best_reward
    assert point.kl == pytest.approx(world.frontier.at(beta).kl, rel=0.1)
