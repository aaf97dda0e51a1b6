"""The lab's losses beside TRL's own trainer; skipped where TRL (extra `bench`) is not installed."""

from __future__ import annotations

import pytest
import torch

from dpo_lab.training.metrics import pair_metrics

pytest.importorskip("trl", minversion="1.16")
losses = pytest.importorskip("losses")


@pytest.fixture(scope="module")
def found():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return losses.compare_all()
    finally:
        torch.set_num_threads(threads)


def test_every_loss_of_trl_agrees_in_value_and_gradient(found) -> None:
    assert {name for name, loss in losses.LOSSES.items() if loss.trl} <= set(found)
    assert max(agreement.loss for agreement in found.values()) < 1e-6
    gradients = {n: a.gradient for n, a in found.items() if a.gradient is not None}
    assert len(gradients) == len(found) - 3
    assert max(gradients.values()) < 1e-5


def test_the_comparison_would_notice(tmp_path) -> None:
    """The batch has answers of unequal length, log-ratios that are not 0, and is cut in parts."""
    trainer = losses.Trainer(tmp_path)
    plain, tailed = (losses.replace(losses.CONFIG, ld_alpha=alpha) for alpha in (None, 0.3))
    trainer._set(tailed)
    theirs = trainer.trl._compute_loss(trainer.trl.model, dict(trainer.inputs), False).item()
    values = []
    for config in (plain, tailed, losses.replace(plain, use_weighting=True)):
        learner = losses.Learner(losses.moved_job(losses.replace(config, micro_batch_tokens=30)))
        batch = learner.order.batch(0)
        assert len(learner.gradient.micro_batches(learner.job.train, batch)) > 2
        outcome = learner.accumulate(batch)
        value, pairs = outcome.losses, outcome.pairs
        assert pairs.margins.abs().mean() > 0.5
        values.append(value.mean().item())
    assert values[1] == pytest.approx(theirs, rel=1e-6)
    assert len({round(value, 4) for value in values}) == 3


def test_reward_accuracies_are_those_that_trl_logs(tmp_path, monkeypatch) -> None:
    """Also where the policy has hardly moved, and margins are smaller than 1e-4 nats."""
    for moved in (losses.MOVED, 3e-5):
        monkeypatch.setattr(losses, "MOVED", moved)
        trainer = losses.Trainer(tmp_path / str(moved))
        trainer._set(losses.CONFIG)
        trainer.trl._compute_loss(trainer.trl.model, dict(trainer.inputs), False)
        (mode,) = (name for name, found in trainer.trl._metrics.items() if found)
        theirs = trainer.trl._metrics[mode]["rewards/accuracies"][-1]
        learner = losses.Learner(losses.moved_job(losses.CONFIG))
        outcome = learner.accumulate(learner.order.batch(0))
        values, pairs, weights = outcome.losses, outcome.pairs, outcome.gradient_weights
        ours = pair_metrics(values, pairs, weights, losses.CONFIG.beta)["rewards/accuracies"]
        assert ours == pytest.approx(theirs) and 0 < ours < 1
    assert ((pairs.margins > 0) & (pairs.margins < 1e-4)).sum() > 1
