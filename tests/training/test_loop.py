import math
from dataclasses import replace

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from tiny import plain_logp
from transformers import AutoModelForCausalLM

from dpo_lab.analysis.pair_margins import pair_logps
from dpo_lab.models.loading import load_model
from dpo_lab.models.reference_cache import ReferenceCache
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.control import RunControl
from dpo_lab.training.learner import Learner, NonFiniteLoss
from dpo_lab.training.loop import train
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import prepare
from dpo_lab.training.start_check import NotTheReference

QUICK = TrainConfig(
    steps=8,
    batch_pairs=8,
    limit=64,
    eval_every=0,
    eval_pairs=8,
    learning_rate=1e-3,
    schedule="constant",
)


@pytest.fixture(params=["plain", "lean"])
def layers(request, monkeypatch) -> None:
    """Micro trained as small models are, and as large ones are."""
    monkeypatch.setattr(
        "dpo_lab.training.step_gradient.is_small", lambda _: request.param == "plain"
    )


def run_in(tmp_path, job) -> Run:
    return Run.create(tmp_path / "run", job.config, {})


def losses(records) -> list[float]:
    return [record["loss"] for record in records]


def test_loss_is_ln_2_and_margins_0_at_the_start():
    first = next(train(prepare(replace(QUICK, beta=1.0))))
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert first["gradient_weight"] == pytest.approx(0.5, abs=1e-5)
    assert first["rewards/accuracies"] == first["logratios/chosen_negative"] == 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_before_the_first_step_every_pair_is_a_tie(precision):
    """In step 0 and in the record of step 1, which is of the weights before it: no pair has won.

    Policy and reference are scored in other batches there, so that their sums differ by rounding.
    """
    config = replace(QUICK, precision=precision, eval_every=4, eval_pairs=64, kl_samples=0)
    records = train(prepare(config))
    start, first, second = next(records), next(records), next(records)
    for values, name in ((start, "eval/"), (first, "")):
        for key in ("accuracies", "margins", "chosen", "rejected"):
            assert values[f"{name}rewards/{key}"] == 0
        assert values[f"{name}logratios/chosen_negative"] == 0
    assert start["eval/loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert second["rewards/margins"] != 0


@pytest.mark.parametrize("eval_every", [0, 4], ids=["in its first step", "evaluated before it"])
def test_a_policy_that_has_left_its_reference_is_refused(eval_every):
    job = prepare(replace(QUICK, eval_every=eval_every, kl_samples=0))
    with torch.no_grad():
        next(job.policy.model.parameters()).mul_(1.5)
    with pytest.raises(NotTheReference, match="before the first step"):
        next(train(job))


def plain_dpo_trajectory(job, steps: int):
    """DPO as one would write it on a blackboard: full logits, row by row, one batch a step."""
    policy = load_model("micro").model
    reference = load_model("micro").model
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, weight_decay=0.0, foreach=False)

    order, values = Learner(job).order, []
    for step in range(steps):
        batch = [job.train.tokens[index] for index in order.batch(step)]
        total = 0.0
        for pair in batch:
            sides = [(pair.prompt, side) for side in (pair.chosen, pair.rejected)]
            with torch.no_grad():
                fixed = [plain_logp(reference, *side) for side in sides]
            chosen, rejected = (plain_logp(policy, *side) for side in sides)
            margin = (chosen - fixed[0]) - (rejected - fixed[1])
            total = total - torch.nn.functional.logsigmoid(job.config.beta * margin)
        loss = total / len(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        values.append(loss.item())
    return values


def test_trajectory_equals_dpo_written_plainly(layers):
    job = prepare(QUICK)
    expected = plain_dpo_trajectory(job, steps=5)
    assert losses(train(job))[:5] == pytest.approx(expected, abs=1e-5)


def test_accumulation_gives_the_trajectory_of_one_batch(layers):
    """Eight micro-batches of one pair against one of eight, to 1e-6, loss by loss."""
    whole = losses(train(prepare(replace(QUICK, optimizer="rmsprop", learning_rate=1e-4))))
    pieces = losses(
        train(
            prepare(replace(QUICK, optimizer="rmsprop", learning_rate=1e-4, micro_batch_tokens=1))
        )
    )
    assert pieces == pytest.approx(whole, abs=1e-6)
    assert whole[-1] != pytest.approx(whole[0], abs=1e-3)


def test_a_second_run_computes_no_reference_value():
    cache = ReferenceCache()
    first = prepare(QUICK, cache=cache)
    again = prepare(replace(QUICK, beta=2.0, loss="ipo", seed=3, learning_rate=1e-4), cache=cache)
    assert first.cache_use.computed > 0
    assert again.cache_use.computed == 0
    assert again.cache_use.cached == first.cache_use.computed


def test_beta_and_learning_rate_move_in_mid_run():
    control, seen = RunControl(), []
    for record in train(prepare(QUICK), control=control):
        seen.append((record.beta, record.learning_rate))
        if record.step == 3:
            control.set(beta=2.0, learning_rate=5e-4)
    assert seen[2] == (0.1, 1e-3)
    assert seen[3:] == [(2.0, 5e-4)] * 5


def test_an_evaluation_uses_the_beta_that_is_in_use_by_then():
    """Beta rises from 0.1 to 2 before step 3; step 4's evaluation beside the loss written out."""
    job, control = prepare(replace(QUICK, steps=4, eval_every=2, kl_samples=0)), RunControl()
    records = {}
    for record in train(job, control=control):
        records[record.step] = record
        if record.step == 2:
            control.set(beta=2.0)
    pairs = pair_logps(job, job.held_out.tokens)
    for step, beta in ((2, 0.1), (4, 2.0)):
        values = records[step].values
        drift = values["eval/logratios/chosen"] - values["eval/logratios/rejected"]
        assert abs(drift) > 1e-3
        assert values["eval/rewards/margins"] == pytest.approx(beta * drift, rel=1e-6)
    expected = -torch.nn.functional.logsigmoid(2.0 * pairs.margins).mean().item()
    assert records[4]["eval/loss"] == pytest.approx(expected, abs=1e-6)
    with_old = -torch.nn.functional.logsigmoid(0.1 * pairs.margins).mean().item()
    assert abs(with_old - expected) > 1e-3, "the check would see the configuration's beta"


def test_a_learning_rate_set_in_mid_run_keeps_its_schedule():
    """Linear from 1 to 0 over 8 steps: after 4 steps half the peak is left, whatever the peak."""
    control = RunControl()
    records = []
    for record in train(prepare(replace(QUICK, schedule="linear")), control=control):
        records.append(record)
        if record.step == 4:
            control.set(learning_rate=1e-4)
    assert records[3].learning_rate == pytest.approx(1e-3 * 5 / 8)
    assert [r.learning_rate for r in records[4:]] == pytest.approx([5e-5, 3.75e-5, 2.5e-5, 1.25e-5])


def test_pause_step_and_stop(tmp_path):
    job, control = prepare(QUICK), RunControl()
    run = run_in(tmp_path, job)
    control.pause()
    control.step()
    control.step()
    running = train(job, run=run, control=control)
    assert [next(running).step, next(running).step] == [1, 2]
    control.stop()  # also releases the pause
    assert list(running) == []
    assert run.summary["state"] == "stopped"
    assert run.checkpoint is not None


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    config = replace(QUICK, eval_every=3, kl_samples=8, sample_prompts=2, max_new_tokens=4)
    whole = Run.create(tmp_path / "whole", config, {})
    list(train(prepare(config), run=whole))
    parts = Run.create(tmp_path / "parts", config, {})
    running = train(prepare(config), run=parts)
    for record in running:
        if record.step == 5:
            running.close()
    list(train(prepare(config), run=parts))
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (parts.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert parts.summary["state"] == "done"


def test_a_breakdown_leaves_the_last_good_step_to_go_on_from(tmp_path):
    config = replace(QUICK, checkpoint_every=1)
    whole = list(train(prepare(config)))
    job = prepare(config)
    run = run_in(tmp_path, job)
    broken = Learner(job).order.batch(3)
    job.train.reference[0, broken] = math.nan
    with pytest.raises(NonFiniteLoss, match="step 4: loss is nan at beta 0.1 and learning rate"):
        list(train(job, run=run))
    assert run.summary["state"] == "failed"
    assert "nan" in run.summary["error"]
    assert torch.load(run.checkpoint / "trainer.pt", weights_only=True)["step"] == 3
    rest = list(train(prepare(config), run=run))
    assert losses(rest) == losses(whole)[3:]


def test_checkpoint_is_a_model_that_transformers_loads(tmp_path):
    job = prepare(QUICK)
    run = run_in(tmp_path, job)
    list(train(job, run=run))
    ids = torch.tensor([job.train.tokens[0].prompt])
    saved = AutoModelForCausalLM.from_pretrained(run.checkpoint)
    assert torch.equal(saved(ids).logits, job.policy.model(ids).logits)
    assert not torch.equal(saved(ids).logits, load_model("micro").model(ids).logits)


def test_lora_trains_the_adapter_alone(tmp_path):
    job = prepare(replace(QUICK, lora_rank=4, eval_every=4, kl_samples=8, max_new_tokens=4))
    before = {name: p.clone() for name, p in job.policy.base.named_parameters()}
    run = run_in(tmp_path, job)
    records = list(train(job, run=run))
    changed = {n for n, p in job.policy.base.named_parameters() if not torch.equal(p, before[n])}
    assert changed and all("lora_" in name for name in changed)
    assert records[0]["kl/per_token"] == pytest.approx(0, abs=1e-6)
    assert records[-1]["kl/per_token"] > 1e-4
    ids = torch.tensor([job.train.tokens[0].prompt])
    with job.reference.active() as reference:
        assert torch.equal(
            reference.language_model.model(ids).logits, load_model("micro").model(ids).logits
        )
    saved = AutoPeftModelForCausalLM.from_pretrained(run.checkpoint)
    assert torch.allclose(saved(ids).logits, job.policy.model(ids).logits, atol=1e-6)


def test_more_beta_keeps_the_policy_closer():
    """The direction of beta, measured: KL after the same training falls as beta rises."""
    config = replace(
        QUICK, steps=60, batch_pairs=32, limit=None, eval_every=60, kl_samples=128, max_new_tokens=4
    )
    kls = [
        list(train(prepare(replace(config, beta=b))))[-1]["kl/per_token"] for b in (0.1, 1.0, 10.0)
    ]
    assert kls[0] > kls[1] > kls[2] > 0


def test_rmsprop_with_warm_up():
    """The paper's optimiser: fifths of the peak over four steps of warm-up, and no step at 0."""
    config = replace(QUICK, optimizer="rmsprop", warmup_steps=4, learning_rate=1e-4)
    rates = [record.learning_rate for record in train(prepare(config))]
    assert rates == pytest.approx([2e-5, 4e-5, 6e-5, 8e-5, 1e-4, 1e-4, 1e-4, 1e-4])


def test_gradient_checkpointing_changes_nothing(layers):
    plain = losses(train(prepare(QUICK)))
    again = losses(train(prepare(replace(QUICK, gradient_checkpointing=True))))
    assert again == pytest.approx(plain, abs=1e-6)


def test_rows_in_memory_with_an_own_score():
    rows = [
        {"prompt": f"the {aspect} was", "chosen": "good", "rejected": "bad"}
        for aspect in ("plot", "music", "acting", "story")
    ]
    config = TrainConfig(
        steps=4, batch_pairs=2, held_out=0.25, eval_every=2, kl_samples=4, max_new_tokens=4
    )
    job = prepare(config, data=rows, reward_fn=lambda prompt, response: float("good" in response))
    records = list(train(job))
    assert 0 <= records[-1]["score/policy"] <= 1
    assert len(job.train) == 3
