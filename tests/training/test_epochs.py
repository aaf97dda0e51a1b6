"""An epoch shows every pair once; what is left for the last step is what it takes."""

from dataclasses import replace

import pytest
import torch
from tiny import plain_logp

from dpo_lab.models.loading import load_model
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.learner import Learner
from dpo_lab.training.loop import train
from dpo_lab.training.setup import prepare

CONFIG = TrainConfig(
    epochs=1, batch_pairs=8, eval_every=0, eval_pairs=0, learning_rate=1e-3, schedule="constant",
    warmup_steps=0,
)  # fmt: skip

# Pairs, epochs, and the sizes of the steps. 20 / 8 would round to 2 steps, 22 / 8 to 3.
CASES = [
    (20, 1, [8, 8, 4]),
    (22, 1, [8, 8, 6]),
    (16, 1, [8, 8]),
    (17, 1, [8, 8, 1]),
    (20, 2, [8, 8, 8, 8, 8]),
    (22, 0.5, [8, 3]),
    (9, 3, [8, 8, 8, 3]),
]


@pytest.mark.parametrize(("pairs", "epochs", "sizes"), CASES)
def test_every_pair_as_often_as_there_are_epochs_and_the_records_say_so(pairs, epochs, sizes):
    job = prepare(replace(CONFIG, limit=pairs, epochs=epochs))
    order = Learner(job).order
    batches = [order.batch(step) for step in range(len(sizes))]
    assert list(map(len, batches)) == sizes
    shown = sorted(sum(batches, []))
    if epochs >= 1:
        assert shown == sorted(list(range(pairs)) * epochs)
    else:
        assert len(set(shown)) == len(shown) == round(epochs * pairs)
    assert job.train.scored.nonzero().flatten().tolist() == sorted(set(shown)), (
        "scored are those that are used"
    )
    records = list(train(job))
    assert [record["pairs"] for record in records] == sizes
    assert records[-1].pairs_seen == sum(sizes)
    assert records[-1].epoch == pytest.approx(sum(sizes) / pairs)
    assert [r.timing["pairs_per_second"] * r.timing["seconds"] for r in records] == pytest.approx(
        sizes
    )


def test_so_many_steps_have_so_many_whole_batches():
    records = list(train(prepare(replace(CONFIG, limit=20, epochs=None, steps=4))))
    assert [record["pairs"] for record in records] == [8, 8, 8, 8]


def test_the_last_step_s_loss_is_the_mean_over_its_own_pairs():
    job = prepare(replace(CONFIG, limit=20))
    last = Learner(job).order.batch(2)
    reference, policy = load_model("micro").model, job.policy.model

    running = train(job)
    next(running), next(running)
    losses = []
    with torch.no_grad():
        for pair in (job.train.tokens[index] for index in last):
            ratios = [
                plain_logp(policy, pair.prompt, side) - plain_logp(reference, pair.prompt, side)
                for side in (pair.chosen, pair.rejected)
            ]
            losses.append(-torch.nn.functional.logsigmoid(0.1 * (ratios[0] - ratios[1])))
    expected = torch.stack(losses).mean().item()
    record = next(running)
    assert len(last) == 4 and record["loss"] == pytest.approx(expected, abs=1e-6)
    assert abs(expected - 0.693147) > 1e-4, "the policy has moved by then"
