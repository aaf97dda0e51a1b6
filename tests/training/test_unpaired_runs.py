"""Training on single responses with KTO and BCO, against the same written plainly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny import plain_log_probs

from dpo_lab.data.pair_ids import TokenizedPair
from dpo_lab.data.preferences import preferences_from_rows
from dpo_lab.models.loading import load_model
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.control import RunControl
from dpo_lab.training.learner import Learner
from dpo_lab.training.loop import train
from dpo_lab.training.run_job import run_job
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import prepare
from dpo_lab.training.unpaired_baseline import mismatched

STEPS = 3
QUICK = TrainConfig(
    loss="kto", steps=STEPS, batch_pairs=8, held_out=0.0, eval_every=0, learning_rate=3e-3,
    schedule="constant", warmup_steps=0, micro_batch_tokens=14, beta=0.3,
)  # fmt: skip
PROMPTS = ("the plot was", "the finale felt", "the ending felt", "the acting was", "the cast was")
ANSWERS = ("really good", "fine", "flat", "very bad", "dull and bad", "warm")
ROWS = [
    {"prompt": PROMPTS[n % 5], "completion": ANSWERS[n % 6], "label": n % 6 in (0, 1, 5)}
    for n in range(30)
]


def logp(model, prompt, response) -> torch.Tensor:
    rows = plain_log_probs(model, prompt, response)
    return rows[torch.arange(len(response)), torch.tensor(response)].sum()


def plain_trajectory(job) -> list[float]:
    """One response at a time; z0 or delta of the whole batch; no micro-batch, no packing."""
    config, reference, policy = job.config, load_model("micro").model, load_model("micro").model
    optimizer = torch.optim.AdamW(policy.parameters(), lr=config.learning_rate, weight_decay=0.0)
    order, values, every = Learner(job).order, [], []
    for step in range(STEPS):
        batch = [job.train.tokens[index] for index in order.batch(step)]
        texts = [(one.prompt, one.chosen or one.rejected, bool(one.chosen)) for one in batch]
        with torch.no_grad():
            before = [logp(reference, prompt, response) for prompt, response, _ in texts]
            others = []
            for k, (prompt, _, _) in enumerate(texts):
                later = [*texts[k + 1 :], *texts[:k]]
                others.append(next(r for p, r, _ in later if p != prompt))
            gaps = [
                logp(policy, prompt, other) - logp(reference, prompt, other)
                for (prompt, _, _), other in zip(texts, others, strict=True)
            ]
            z0 = torch.stack(gaps).mean().clamp(min=0)
        ratios = torch.stack([logp(policy, p, r) for p, r, _ in texts]) - torch.stack(before)
        every += ratios.tolist()
        signs = torch.tensor([1.0 if good else -1.0 for *_, good in texts])
        if config.loss == "kto":
            weights = torch.where(signs > 0, config.desirable_weight or 1.0, 1.0)
            losses = weights * (1 - torch.sigmoid(signs * config.beta * (ratios - z0)))
        else:
            shift = sum(every) / len(every)
            losses = -F.logsigmoid(signs * config.beta * (ratios - shift))
        optimizer.zero_grad()
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        values.append(losses.mean().item())
    return values


LIKED = [row | {"label": n % 6 != 3} for n, row in enumerate(ROWS)]
CASES = [
    ({"loss": "kto"}, ROWS),
    ({"loss": "kto", "desirable_weight": 1.4}, LIKED),  # z0 is above 0 where most rise
    ({"loss": "bco"}, ROWS),
]


@pytest.mark.parametrize("case, rows", CASES, ids=["kto", "kto, most liked", "bco"])
def test_trajectory_in_micro_batches_equals_the_plain_one(case, rows):
    config = replace(QUICK, **case)
    job = prepare(config, data=rows)
    learner = Learner(job)
    assert len(learner.gradient.micro_batches(job.train, learner.order.batch(0))) > 1
    expected = plain_trajectory(job)
    records = list(train(job))
    assert [record["loss"] for record in records] == pytest.approx(expected, abs=2e-5)
    assert records[0]["baseline"] == 0
    assert (records[-1]["baseline"] != 0) == (case != {"loss": "kto"})
    assert records[-1]["rewards/margins"] > 0 and records[0]["rewards/accuracies"] == 0


def test_a_prompt_gets_the_next_response_to_another():
    def one(prompt, response, good=True):
        sides = ((response,), ()) if good else ((), (response,))
        return TokenizedPair((prompt,), *sides, 1, single=True)

    batch = [one(1, 10), one(1, 11, False), one(2, 12), one(3, 13, False)]
    assert mismatched(batch) == [((1,), (12,)), ((1,), (12,)), ((2,), (13,)), ((3,), (10,))]
    assert mismatched(batch[:2]) == [((1,), (11,)), ((1,), (10,))]
    assert mismatched(batch[:1]) == [((1,), (10,))]


@pytest.mark.parametrize("loss", ["kto", "bco"])
def test_a_resumed_run_goes_on_as_if_never_stopped(loss, tmp_path):
    config = replace(QUICK, loss=loss, steps=6, checkpoint_every=1, held_out=0.2, eval_every=3,
                     kl_samples=8, sample_prompts=0)  # fmt: skip
    run_job(config, tmp_path / "whole", data=ROWS, measure=False)
    control = RunControl()
    job = prepare(config, data=ROWS)
    folder = Run(tmp_path / "parted")
    run_job(config, folder.path, data=ROWS, measure=False, control=_stopping(control, 3))
    assert folder.summary["step"] < 6
    run_job(config, folder.path, data=ROWS, measure=False)
    ours, theirs = (Run(tmp_path / name).records() for name in ("parted", "whole"))
    assert [record.as_dict() for record in ours] == [record.as_dict() for record in theirs]
    last = ours[-1]
    assert {"eval/loss", "eval/rewards/chosen", "eval/rewards/rejected", "eval/baseline"} <= set(
        last.values
    )
    assert last["eval/responses"] == len(job.held_out) and "kl/per_token" in last.values


class _StopAt(RunControl):
    step = 0

    def __init__(self, after: int):
        super().__init__()
        self.after = after

    def wait_for_turn(self, timeout=None):
        self.step += 1
        if self.step > self.after:
            self.stop()
        return super().wait_for_turn(timeout)


def _stopping(control: RunControl, after: int) -> RunControl:
    return _StopAt(after)


def test_pairs_are_taken_apart_and_thumbs_are_paired_up():
    pairs = [{"prompt": p, "chosen": "good", "rejected": "bad"} for p in PROMPTS]
    job = prepare(replace(QUICK, batch_pairs=10), data=pairs)
    assert len(job.train) == 10 and all(pair.single for pair in job.train.tokens)
    assert str(job.train.tokens) == "10 single responses tokenised"
    config = TrainConfig(batch_pairs=4, held_out=0.0, pair_up="balanced")
    paired = prepare(config, data=ROWS)
    assert len(paired.train) == 15 and not any(pair.single for pair in paired.train.tokens)
    kept = preferences_from_rows(ROWS, thumbs="keep")
    assert len(prepare(config, data=kept).train) == 15
    with pytest.raises(ValueError, match="--loss kto"):
        prepare(replace(config, pair_up=None), data=kept)


def test_a_batch_of_one_kind_leaves_out_what_needs_the_other():
    liked = [row | {"label": True} for row in ROWS]
    *_, last = train(prepare(QUICK, data=liked))
    assert last["rewards/chosen"] > 0 and "rewards/rejected" not in last.values
    assert "rewards/margins" not in last.values


REFUSED = [
    ({"use_weighting": True}, "use_weighting=True: needs pairs, and the loss 'kto' is one of sin"),
    ({"ld_alpha": 0.5}, "ld_alpha=0.5: needs pairs"),
    ({"pair_up": "all"}, "pair_up=all: needs pairs"),
    ({"method": "online-dpo"}, "loss='kto': trains on the data's responses, each good or bad"),
]


@pytest.mark.parametrize("settings, words", REFUSED)
def test_settings_of_pairs_are_refused(settings, words):
    with pytest.raises(ValueError) as error:
        TrainConfig(loss="kto", **settings)
    assert str(error.value).startswith(words)
