"""The gap to pi* and its parts; the exact gradients that they are measured with."""

from dataclasses import replace

import pytest
import torch

from dpo_lab.analysis.exact_gradients import (
    ExactObjective,
    FreshPairs,
    KnownLabels,
    LargeFreshBatches,
)
from dpo_lab.analysis.optimality_gap import optimality_gap
from dpo_lab.data.reviews import reward
from dpo_lab.models.response_space import ResponseSpace
from dpo_lab.models.reward import new_reward_model
from dpo_lab.objective.optimum import exact_kl, optimal_logps
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.exact_metrics import world_of
from dpo_lab.training.learner import Learner
from dpo_lab.training.loop import train
from dpo_lab.training.reward import RewardTraining
from dpo_lab.training.setup import prepare

QUICK = TrainConfig(
    beta=0.5, steps=6, batch_pairs=8, eval_every=0, device="cpu", learning_rate=1e-3
)
NAMES = ["label noise", "coverage of the pairs", "estimator", "optimisation"]


def finished(config, **options):
    job = prepare(config, keep_reference=True, **options)
    for _ in train(job):
        pass
    return job


def gradient(learner) -> torch.Tensor:
    found = torch.cat([weight.grad.flatten() for weight in learner.parameters])
    learner.optimizer.zero_grad()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpo", "rloo with a reward model", "online-dpo", "grpo"])
def test_parts_sum_to_the_whole_which_is_the_divergence_from_the_optimum(method):
    name, *with_model = method.split()
    reward = new_reward_model(prepare(QUICK).policy) if with_model else None
    job = finished(replace(QUICK, method=name), training_reward=reward)
    told = []
    gap = optimality_gap(
        job,
        reward_training=RewardTraining(epochs=0.05),
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    world = world_of(job)
    star = optimal_logps(world.reference_logps, world.rewards, 0.5)
    divergence = 0.5 * exact_kl(world.logps(job.policy), star).mean().item()
    assert gap.whole == pytest.approx(divergence, abs=1e-6) and divergence > 0.1
    assert sum(part.gain for part in gap.parts) == pytest.approx(gap.whole, abs=1e-6)
    kept = {"online-dpo": (0, 2, 3), "grpo": (2, 3)}.get(name, range(4))
    assert [part.name for part in gap.parts] == [NAMES[place] for place in kept]
    assert all(part.gain != 0 for part in gap.parts)
    assert told[-1][1:] == (6, 6)


@pytest.mark.slow
def test_a_run_that_has_the_exact_thing_already_gains_nothing_by_it():
    """Trained by the exact gradient of J, as the part of the estimator puts it in."""
    job = prepare(replace(QUICK, method="rloo"), keep_reference=True)
    job.step_gradient = ExactObjective
    for _ in train(job):
        pass
    estimator, rest = optimality_gap(job).parts
    assert estimator.gain == pytest.approx(0, abs=1e-9) and rest.gain > 0.1


def test_known_labels_are_the_mean_over_drawn_ones():
    """P times the loss with one label and 1 - p times that with the other, of each pair alone."""
    job = prepare(QUICK)
    learner = Learner(job)
    with torch.no_grad():  # away from the reference, where both labels give the same loss
        for number, weight in enumerate(learner.parameters):
            weight.add_(
                0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
            )
    indices, expected = learner.order.batch(0), 0
    for index in indices:
        pair = job.train.tokens[index]
        sides = [
            job.policy.tokenizer.decode(ids, skip_special_tokens=True)
            for ids in (pair.chosen, pair.rejected)
        ]
        rewards = [job.reward_fn("", side) for side in sides]
        chance = 1 / (1 + 2.718281828459045 ** (rewards[1] - rewards[0]))
        for share, chosen, rejected in ((chance, 0, 1), (1 - chance, 1, 0)):
            batch = job.train.batch([index])
            logps = [
                job.scorer.logps(job.scorer.batch([(pair.prompt, ids)]))
                for ids in (pair.chosen, pair.rejected)
            ]
            reference = [batch.logps.reference_chosen, batch.logps.reference_rejected]
            margin = (logps[chosen] - reference[chosen]) - (logps[rejected] - reference[rejected])
            loss = -torch.nn.functional.logsigmoid(0.5 * margin).sum()
            expected = expected + share * loss / len(indices)
    expected.backward()
    plain = gradient(learner)
    outcome = KnownLabels(job, learner.parameters).accumulate(indices, 0, 0.5)
    torch.testing.assert_close(gradient(learner), plain, rtol=1e-3, atol=1e-5)
    assert outcome.losses.mean().item() == pytest.approx(expected.item(), abs=1e-5)


def test_fresh_pairs_are_new_in_every_step_and_of_the_batch_s_prompts():
    job = prepare(QUICK, keep_reference=True)
    learner = Learner(job)
    fresh, many = (kind(job, learner.parameters) for kind in (FreshPairs, LargeFreshBatches))
    vars(many)["world"] = fresh.world
    seen = []
    for found in (fresh, many):
        found.descend = lambda source, every, beta: seen.append(source)
    fresh.accumulate([3, 4, 5], 0, 0.5)
    fresh.accumulate([3, 4, 5], 1, 0.5)
    fresh.accumulate([3, 4, 5], 1, 0.5)
    many.accumulate([3, 4, 5], 0, 0.5)
    first, second, again, large = ([(p.chosen, p.rejected) for p in s.tokens.pairs] for s in seen)
    assert second == again != first and len(large) == 16 * len(first) == 48
    assert all(one != other for one, other in large)
    prompts = [job.train.tokens[index].prompt for index in (3, 4, 5)]
    assert [pair.prompt for pair in seen[0].tokens.pairs] == prompts
    for number, pair in enumerate(seen[0].tokens.pairs):
        for side, ids in enumerate((pair.chosen, pair.rejected)):
            with job.reference.active() as frozen, torch.no_grad():
                logp = frozen.logps(frozen.batch([(pair.prompt, ids)])).item()
            assert seen[0].reference[side, number].item() == pytest.approx(logp, abs=1e-4)


def test_the_exact_gradient_is_that_of_the_objective_at_two_prompts_of_the_batch():
    job = prepare(QUICK, keep_reference=True)
    learner = Learner(job)
    indices = list(range(8))
    texts = list(dict.fromkeys(job.train_prompts[index] for index in indices))[:2]
    with job.reference.active() as frozen:
        world = ResponseSpace.of(frozen.language_model, texts, job.reward_fn)
    (-world.objective(job.policy, 0.5)).backward()
    expected = gradient(learner)
    ExactObjective(job, learner.parameters).accumulate(indices, 0, 0.5)
    torch.testing.assert_close(gradient(learner), expected, rtol=1e-4, atol=1e-6)


def test_a_run_without_such_a_gap_is_refused():
    for config in (replace(QUICK, method="sft"), replace(QUICK, loss="aot")):
        with pytest.raises(ValueError, match="the gap of this run cannot be split"):
            optimality_gap(prepare(config, keep_reference=True))


@pytest.mark.slow
def test_a_reward_that_is_no_model_is_no_fault_of_the_estimator():
    """Trained on the length of answers: what that costs stands beside the estimator's part."""
    job = finished(replace(QUICK, method="rloo"), training_reward=lambda prompt, text: len(text))
    names = [part.name for part in optimality_gap(job).parts]
    assert names == NAMES[1:]


def test_pairs_that_the_run_did_not_have_are_refused():
    rows = [{"prompt": "the plot was", "chosen": "good", "rejected": "dull"}] * 20
    rows += [{"prompt": "the music felt", "chosen": "good", "rejected": "dull"}] * 20
    job = prepare(QUICK, data=rows, reward_fn=reward, keep_reference=True)
    with pytest.raises(ValueError, match=r"Give its pairs \(data=...\)"):
        optimality_gap(job)


def test_fresh_pairs_have_reference_values_of_the_kind_that_the_loss_takes():
    """With LD-DPO weighted sums; at the reference every log-ratio is 0."""
    job = prepare(replace(QUICK, ld_alpha=0.5), keep_reference=True)
    outcome = FreshPairs(job, Learner(job).parameters).accumulate(range(8), 0, 0.5)
    assert outcome.pairs.chosen_logratios.abs().max() < 1e-4
    assert outcome.pairs.rejected_logratios.abs().max() < 1e-4
