"""Label noise: how much of the true reward plain, conservative and robust DPO recover, exactly."""

from __future__ import annotations

from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.response_space import ResponseSpace, RewardFit
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.run_job import run_job

CONTENDERS = {"plain": "sigmoid", "conservative": "sigmoid", "robust": "robust"}
"""Losses to compare, by name; all but plain DPO are given the true share of flipped labels."""


def trained_on(rows: list[dict[str, str]], config: TrainConfig) -> LanguageModel:
    """Train on rows in memory, and return the policy; no outcome is measured.

    Args:
        rows: Pairs with `prompt`, `chosen`, `rejected`.
        config: Configuration of the run.
    """
    return run_job(config, data=rows, measure=False).job.policy


def under_noise(
    world: ResponseSpace, share: float, *, pairs: int = 4000, steps: int = 150, seed: int = 3
) -> dict[str, RewardFit]:
    """Train plain, conservative and robust DPO on pairs with some labels flipped.

    Args:
        world: Response space of `micro`.
        share: Share of the labels to flip, in [0, 0.5).
        pairs: Number of pairs; their labels are drawn from Bradley-Terry, then flipped.
        steps: Optimiser steps.
        seed: Seed of the pairs.

    Returns:
        How well each policy's implicit reward fits the true one, by name in `CONTENDERS`.

    Raises:
        ValueError: If the share is out of range.
    """
    weights = world.said_and_rare
    rows = world.pairs(weights, weights, pairs, flipped=share, seed=seed)
    fits = {}
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
        fits[name] = world.recovered(trained_on(rows, config), beta=config.beta)
    return fits
