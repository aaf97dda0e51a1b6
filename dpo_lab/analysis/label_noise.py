"""What wrong labels do to DPO and to the losses that are meant for them, measured exactly."""

from __future__ import annotations

from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.response_space import ResponseSpace, RewardFit
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.run_job import run_job

CONTENDERS = {"plain": "sigmoid", "conservative": "sigmoid", "robust": "robust"}
"""Names of the losses that are compared; all but plain DPO get the true share of flips."""


def trained_on(rows: list[dict[str, str]], config: TrainConfig) -> LanguageModel:
    """The policy after a run on rows in memory, with nothing held out or measured.

    Args:
        rows: Pairs with `prompt`, `chosen`, `rejected`.
        config: Of the run.
    """
    return run_job(config, data=rows, measure=False).job.policy


def under_noise(
    world: ResponseSpace, share: float, *, pairs: int = 4000, steps: int = 150, seed: int = 3
) -> dict[str, RewardFit]:
    """Train plain, conservative and robust DPO where some labels are turned around.

    Args:
        world: Of `micro`.
        share: Share of the labels that are turned around, in [0, 0.5).
        pairs: How many pairs, labels drawn from Bradley-Terry before that.
        steps: Optimiser steps.
        seed: Of the pairs.

    Returns:
        How much of the true reward each has found, by its name in `CONTENDERS`.

    Raises:
        ValueError: If the share is out of range.
    """
    weights = world.said_and_rare
    rows = world.pairs(weights, weights, pairs, flipped=share, seed=seed)
    found = {}
    for name, loss in CONTENDERS.items():
        config = TrainConfig(
            loss=loss,
            label_smoothing=None if name == "plain" else share,
            beta=1,
            steps=steps,
            batch_pairs=64,
            learning_rate=1e-3,
            micro_batch_tokens=8192,
            held_out=0.0,
            eval_every=0,
            eval_pairs=0,
        )
        found[name] = world.recovered(trained_on(rows, config), beta=config.beta)
    return found
