"""Training on the policy's own answers: steps, records, resuming, refusals."""

import math
from dataclasses import replace

import pytest
import torch

from dpo_lab.models.reference_cache import ReferenceCache
from dpo_lab.models.reward import load_reward_model, new_reward_model
from dpo_lab.objective.policy_gradient import GRPO, RLOO, PolicyGradient, advantages
from dpo_lab.training.answers import draw_to
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.groups import FIRST_NUMBER, draw_groups
from dpo_lab.training.learner import Learner
from dpo_lab.training.loop import train
from dpo_lab.training.online_pairs import labelled
from dpo_lab.training.run_job import run_job
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import prepare
from dpo_lab.training.sweep import _score_references

QUICK = TrainConfig(
    method="rloo", beta=0.5, steps=8, batch_pairs=6, limit=60, eval_every=4, eval_pairs=8,
    kl_samples=8, checkpoint_every=3, device="cpu",
)  # fmt: skip
SAMPLING = ("rloo", "grpo", "online-dpo")


def as_method(method: str, **changes) -> TrainConfig:
    return replace(QUICK, method=method, **changes)


def gradient(learner) -> torch.Tensor:
    found = [torch.zeros_like(w) if w.grad is None else w.grad for w in learner.parameters]
    learner.optimizer.zero_grad()
    return torch.cat([part.flatten() for part in found])


@pytest.mark.parametrize("method", SAMPLING)
def test_a_run_that_was_left_goes_on_bit_for_bit(method, tmp_path):
    config = as_method(method)
    run_job(config, tmp_path / "whole", measure=False)
    job = prepare(config)
    parts = Run.create(tmp_path / "parts", job.config, {})
    running = train(job, run=parts)
    for record in running:
        if record.step == 5:
            running.close()
    list(train(prepare(config), run=parts))
    for name in ("metrics.jsonl", "samples.jsonl"):
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (parts.path / name).read_bytes() == whole
    assert parts.summary["state"] == "done"


@pytest.mark.parametrize("method", SAMPLING)
def test_micro_batches_change_nothing_but_memory(method):
    gradients, metrics = [], []
    for budget in (100_000, 60):
        learner = Learner(prepare(as_method(method, micro_batch_tokens=budget)))
        outcome = learner.accumulate(learner.order.batch(0))
        metrics.append(outcome.metrics(0.5, first=True))
        gradients.append(gradient(learner))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-5, abs=1e-6)
    assert gradients[0].abs().max() > 1e-3


def test_records_are_of_the_answers_that_were_drawn():
    """Each number again from the answers, one at a time."""
    job = prepare(as_method("rloo", samples=3))
    learner = Learner(job)
    records = [learner.take_step() for _ in range(2)]
    drawn = Learner(prepare(as_method("rloo", samples=3)))
    drawn.take_step()
    indices = drawn.order.batch(1)
    ids = [drawn.job.train.tokens[index].prompt for index in indices for _ in range(3)]
    prompts = [drawn.job.train_prompts[index] for index in indices for _ in range(3)]
    answers = draw_to(
        drawn.job, drawn.job.policy, ids, 1, first_number=FIRST_NUMBER, with_logps=True
    )
    rewards = torch.tensor(
        [job.reward_fn(p, a.text) for p, a in zip(prompts, answers, strict=True)]
    )
    sums = torch.tensor([sum(answer.logps) for answer in answers])
    with drawn.job.reference.active() as frozen:
        reference = frozen.logps(frozen.batch([(a.prompt, a.ids) for a in answers])).detach()
    kl, tokens = (sums - reference).mean().item(), sum(len(a.ids) for a in answers)
    last = records[1]
    assert last["on_policy/reward"] == pytest.approx(rewards.mean().item(), abs=1e-6)
    assert last["on_policy/kl"] == pytest.approx(kl, abs=1e-4) and abs(kl) > 1e-3
    assert last["on_policy/objective"] == pytest.approx(rewards.mean().item() - 0.5 * kl, abs=1e-4)
    assert last["on_policy/entropy"] == pytest.approx(-sums.sum().item() / tokens, abs=1e-4)
    assert last["on_policy/tokens"] == pytest.approx(tokens / 18)
    assert last["on_policy/samples"] == len(answers) == 18
    groups = rewards.view(6, 3)
    equal = sum(len(set(group)) == 1 for group in groups.tolist()) / 6
    assert last["on_policy/equal"] == pytest.approx(equal)
    assert records[0]["on_policy/kl"] == 0 and "loss" not in last.values


def test_an_evaluation_and_a_step_do_not_draw_the_same_answers():
    job = prepare(as_method("rloo"))
    ids = [pair.prompt for pair in job.train.tokens[:20]]
    first, second = (draw_to(job, job.policy, ids, 0, first_number=n) for n in (0, FIRST_NUMBER))
    assert sum(a.ids == b.ids for a, b in zip(first, second, strict=True)) < 10


def test_online_labels_are_drawn_from_bradley_terry():
    """The share of first answers that win, against the mean of sigmoid of the reward difference."""
    job = prepare(as_method("online-dpo", batch_pairs=60))
    wins, chances = [], []
    for step in range(10):
        groups = draw_groups(job, range(60), step)
        pairs = labelled(groups, torch.Generator().manual_seed(step))
        for row, pair in enumerate(pairs):
            first, second = groups.completions[2 * row : 2 * row + 2]
            assert pair.prompt == first.prompt and {pair.chosen, pair.rejected} == {
                first.ids, second.ids
            }  # fmt: skip
            if first.ids != second.ids:
                difference = groups.rewards[row, 0] - groups.rewards[row, 1]
                better = pair.chosen == (first.ids if difference > 0 else second.ids)
                wins.append(better)
                chances.append(torch.sigmoid(difference.abs()).item())
    mean = sum(chances) / len(chances)
    error = math.sqrt(sum(p * (1 - p) for p in chances)) / len(chances)
    assert abs(sum(wins) / len(wins) - mean) < 3 * error
    assert mean > 0.6 and error < 0.03


def test_equal_answers_ask_for_no_label_and_move_nothing():
    job = prepare(as_method("online-dpo"))
    learner = Learner(job)
    same = replace(job.train.tokens[0], rejected=job.train.tokens[0].chosen)
    alike = replace(job.train, tokens=replace(job.train.tokens, pairs=(same,)))
    scored = replace(alike, scored=torch.ones(1, dtype=torch.bool), reference=torch.zeros(2, 1))
    learner.gradient.descend(scored, [0], 0.5)
    assert gradient(learner).abs().max() == 0


@pytest.mark.parametrize(
    "settings, how",
    [
        ({"method": "rloo"}, RLOO),
        ({"method": "grpo"}, GRPO),
        ({"method": "rloo", "kl_estimator": "k2", "kl_place": "loss"},
         PolicyGradient("leave-one-out", "k2", "loss", "sequence")),
        ({"method": "grpo", "divide_by_deviation": False, "baseline": "none"},
         PolicyGradient("none", "k3", "loss", "token", False)),
    ],
)  # fmt: skip
def test_a_method_is_its_defaults_and_the_switches_that_are_given(settings, how):
    assert TrainConfig(**settings).policy_gradient == how


def test_which_methods_aim_at_the_optimum():
    def aims(**settings) -> bool:
        return TrainConfig(**settings).aims_at_optimum

    assert aims() and aims(method="rloo") and aims(method="online-dpo")
    assert aims(method="rloo", kl_estimator="k2", kl_place="loss")
    assert aims(method="rloo", baseline="mean") and aims(method="rloo", baseline="none")
    assert not aims(method="rloo", kl_estimator="k2", kl_place="loss", baseline="mean")
    assert not aims(method="grpo") and not aims(method="sft")
    assert not aims(method="rloo", reward="some/folder")


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"method": "ppo"}, "method='ppo': unknown. Use one of dpo, online-dpo, rloo, grpo, sft"),
        ({"samples": 4}, "samples=4: method dpo trains on the pairs and samples nothing"),
        ({"reward": "x"}, "reward=x: method dpo trains on the pairs"),
        ({"kl_unit": "token"}, "kl_unit=token: method dpo is no policy gradient"),
        ({"method": "rloo", "samples": 1}, "samples=1: there are no other answers"),
        ({"method": "rloo", "loss": "ipo"}, "loss=ipo: method rloo trains on rewards of its own"),
        ({"method": "rloo", "ld_alpha": 0.5}, "ld_alpha=0.5: method rloo"),
        ({"method": "rloo", "ld_alpha": 0.0}, "ld_alpha=0.0: method rloo"),
        ({"method": "rloo", "router_aux_loss_coef": 0.5}, "router_aux_loss_coef=0.5: method rloo"),
        ({"method": "sft", "loss": "ipo"}, "loss=ipo: method sft trains on the chosen"),
        ({"method": "online-dpo", "samples": 4}, "online DPO compares 2 answers"),
        ({"method": "rloo", "kl_place": "nowhere"}, "kl_place='nowhere': unknown. Use one of rew"),
    ],
)
def test_settings_that_do_not_go_with_a_method_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        TrainConfig(**settings)


def test_a_method_that_samples_needs_a_reward():
    rows = [{"prompt": f"say {i}", "chosen": "good", "rejected": "not dull"} for i in range(8)]
    config = replace(QUICK, batch_pairs=2)
    with pytest.raises(ValueError, match="reward=truth: data .* has no score of its own"):
        prepare(config, data=rows)
    job = prepare(config, data=rows, training_reward=lambda prompt, answer: len(answer))
    assert job.reward_fn is None
    assert [record["on_policy/reward"] for record in train(job) if record.step]


def test_sft_is_the_loss_of_that_name():
    one = [r["loss"] for r in train(prepare(as_method("sft", eval_every=0)))]
    other = [r["loss"] for r in train(prepare(as_method("dpo", loss="sft", eval_every=0)))]
    assert one == other and one[0] != one[-1]


def test_a_reward_model_rates_answers_by_their_ids(tmp_path):
    """As it rates them one at a time; and no run goes on with another one."""
    config = as_method("rloo", reward=str(tmp_path / "rm"))
    new_reward_model(prepare(QUICK).policy, seed=3).save(tmp_path / "rm")
    job = prepare(config)
    model, groups = load_reward_model(tmp_path / "rm", "cpu"), draw_groups(job, range(6), 0)
    expected = [model.rewards_of_ids([sequence]).item() for sequence in groups.sequences]
    assert groups.rewards.flatten().tolist() == pytest.approx(expected, abs=1e-5)
    assert groups.rewards.std() > 1e-3
    run_job(config, tmp_path / "run")
    new_reward_model(job.policy, seed=4).save(tmp_path / "rm")
    with pytest.raises(ValueError, match="the reward model's weights changed since this run began"):
        run_job(config, tmp_path / "run")


@pytest.mark.parametrize("method", SAMPLING)
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_reward_that_is_no_number_is_said_with_the_answer(method, value):
    job = prepare(as_method(method), training_reward=lambda prompt, answer: value)
    with pytest.raises(ValueError, match=f"reward: {value} for the answer '.*' to 'the "):
        Learner(job).take_step()


def test_a_reward_that_was_given_in_python_is_asked_for_again(tmp_path):
    config = as_method("rloo", steps=4, eval_every=0)
    running = train(prepare(config, training_reward=lambda prompt, answer: len(answer)))
    next(running)
    running.close()
    run_job(config, tmp_path / "run", training_reward=lambda prompt, answer: len(answer))
    kept = Run(tmp_path / "run").config
    assert kept.reward == "given in Python" and not kept.aims_at_optimum
    with pytest.raises(ValueError, match="was begun with reward=given in Python, not truth"):
        run_job(config, tmp_path / "run")
    with pytest.raises(ValueError, match="Give it again"):
        run_job(kept, tmp_path / "run")


def test_with_weighted_sums_the_entropy_is_of_the_answers_and_no_kl_is_said():
    """LD-DPO's log-probabilities of a pair are no longer those of its answers."""
    job = prepare(as_method("online-dpo", ld_alpha=0.0))
    drawn = draw_groups(job, Learner(job).order.batch(0), 0)
    record = Learner(job).take_step()
    logps = [logp for answer in drawn.completions for logp in answer.logps]
    assert record["on_policy/entropy"] == pytest.approx(-sum(logps) / len(logps))
    assert {"on_policy/kl", "on_policy/objective"}.isdisjoint(record.values)


def test_equal_rewards_give_no_gradient_whatever_the_baseline():
    for baseline in ("none", "mean", "leave-one-out"):
        assert not advantages(torch.full((2, 4), 0.3), baseline, deviation=True).any()


def test_a_sweep_scores_no_pair_that_its_runs_do_not_use(tmp_path):
    cache = ReferenceCache(tmp_path / "cache.sqlite")
    _score_references([as_method("rloo")], cache)
    use = prepare(as_method("rloo"), cache=cache).cache_use
    assert (use.computed, use.cached) == (0, 16)
    others = prepare(as_method("dpo"), cache=cache).cache_use
    assert others.computed > 50, "the training pairs, which a run on its own answers never scores"
