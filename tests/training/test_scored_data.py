"""Training on scored and on ranked data: ties, rankings, batches by prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dpo_lab.training.config import TrainConfig
from dpo_lab.training.learner import Learner
from dpo_lab.training.loop import train
from dpo_lab.training.setup import prepare

QUICK = TrainConfig(
    steps=2, batch_pairs=4, held_out=0.0, eval_every=0, learning_rate=1e-3, micro_batch_tokens=24,
    schedule="constant", warmup_steps=0, beta=0.3,
)  # fmt: skip
ROWS = [
    {"prompt": "the plot was", "chosen": "really good", "rejected": "bad",
     "score_chosen": 9, "score_rejected": 2},
    {"prompt": "the finale felt", "chosen": "fine", "rejected": "flat",
     "score_chosen": 5, "score_rejected": 5},
    {"prompt": "the ending felt", "chosen": "strong", "rejected": "really weak",
     "score_chosen": 6, "score_rejected": 5.5},
    {"prompt": "the acting was", "chosen": "warm", "rejected": "dull and bad",
     "score_chosen": 7, "score_rejected": 7},
]  # fmt: skip


def gradient(config: TrainConfig, rows) -> tuple[torch.Tensor, float]:
    job = prepare(config, data=rows)
    with torch.no_grad():  # away from the reference, where every margin is 0
        for weight in job.policy.model.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    learner = Learner(job)
    outcome = learner.accumulate(range(len(job.train)))
    grads = torch.cat([weight.grad.flatten() for weight in learner.parameters])
    return grads, outcome.losses.sum().item()


def test_a_tie_weighs_as_much_as_it_is_given():
    """The gradient of a mean over four is linear in the ties' weight; at 1 it is everyone's."""
    of = {w: gradient(replace(QUICK, tie_weight=w), ROWS) for w in (0.25, 0.5, 1.0)}
    unscored = [{k: v for k, v in row.items() if "score" not in k} for row in ROWS]
    plain, loss = gradient(QUICK, unscored)
    torch.testing.assert_close(of[1.0][0], plain)
    assert of[1.0][1] == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(of[0.25][0], 1.5 * of[0.5][0] - 0.5 * of[1.0][0])
    # Without its ties the data is two pairs, whose mean weighs each twice as much.
    dropped, _ = gradient(replace(QUICK, batch_pairs=2), ROWS)
    torch.testing.assert_close(dropped / 2, 2 * of[0.5][0] - of[1.0][0])


def test_odpo_trains_on_scores_and_names_what_lacks_them():
    job = prepare(replace(QUICK, loss="odpo", batch_pairs=2, odpo_transform="log"), data=ROWS)
    assert str(job.load_reports[0]).startswith("rows: 2 pairs from 4 rows; 2 ties left out")
    first, last = train(job)
    # At the reference: minus log sigmoid of minus ln 7 and of minus ln 0.5.
    expected = torch.tensor([8.0, 1.5]).log().mean().item()
    assert first["loss"] == pytest.approx(expected, abs=1e-5) and last["loss"] < first["loss"]
    unscored = [*ROWS, {"prompt": "p", "chosen": "good", "rejected": "bad"}]
    with pytest.raises(ValueError, match=r"rows: 1 of 3 pairs have no scores \(row 5\), which"):
        prepare(replace(QUICK, loss="odpo", batch_pairs=2), data=unscored)


RANKED = [
    {"prompt": prompt, "responses": ["really good", "fine", "flat", "very bad"],
     "scores": [4, 3, 2, 1]}
    for prompt in ("the plot was", "the finale felt", "the ending felt", "the acting was")
]  # fmt: skip


def test_a_batch_by_prompt_computes_what_its_pairs_share_once():
    """Six pairs a prompt: with twelve in a batch, two prompts and their eight responses."""
    config = replace(QUICK, batch_pairs=12, group_by_prompt=True, micro_batch_tokens=400)
    job = prepare(config, data=RANKED)
    learner = Learner(job)
    for step in range(2):
        indices = learner.order.batch(step)
        prompts = [job.train.tokens[index].prompt for index in indices]
        assert [prompts.count(prompt) for prompt in prompts] == [6] * 12
        (batch,) = learner.gradient.micro_batches(job.train, indices)
        pairs = batch.pairs
        laid_out = job.scorer.batch(
            [(pair.prompt, side) for pair in pairs for side in (pair.chosen, pair.rejected)]
        )
        whole = {pair.prompt for pair in pairs}, {(p.prompt, p.chosen[:-1]) for p in pairs}
        whole[1].update((p.prompt, p.rejected[:-1]) for p in pairs)
        assert (len(whole[0]), len(whole[1])) == (2, 8)
        longest = sum(map(len, whole[0])) + sum(len(ids) for _, ids in whole[1])
        assert laid_out.input_ids.numel() <= longest < laid_out.real_tokens / 3
    first, last = train(job)
    assert last["loss"] < first["loss"] == pytest.approx(0.693147, abs=1e-5)


def test_a_ranking_trains_by_its_whole_order():
    """At the reference every order is as likely: ln 4! a ranking, over its six pairs."""
    config = replace(QUICK, loss="plackett_luce", batch_pairs=12, steps=4)
    job = prepare(config, data=RANKED)
    assert job.train.rankings.tolist() == [3 * k + i for k in range(4) for i in (0, 0, 0, 1, 1, 2)]
    records = list(train(job))
    assert records[0]["loss"] == pytest.approx(torch.tensor(24.0).log().item() / 6, abs=1e-5)
    assert records[-1]["loss"] < records[0]["loss"]
    assert len(prepare(replace(config, ranked_pairs="best"), data=RANKED).train) == 12
