"""Cross-fitting: score every pair with a run that was not trained on it, to find wrong labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from dpo_lab.analysis.pair_margins import PairMargins, score_pairs
from dpo_lab.data.preferences import Preferences
from dpo_lab.kernels.threads import threads_for
from dpo_lab.objective.pair_logps import LOGPS, PairLogps
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.run_job import run_job


def cross_fitted_scores(
    config: TrainConfig, preferences: Preferences, folds: int = 4, seed: int = 0
) -> PairMargins:
    """Train one run per fold on all other folds, and score the fold with it.

    A run that was trained on a wrong label may have memorised it, especially with a large model.
    A run that has not seen the label can only judge it by the other pairs.

    Args:
        config: Configuration of each run. Nothing is held out or evaluated.
        preferences: The pairs.
        folds: Number of runs, each on `1 - 1 / folds` of the pairs.
        seed: Decides which pair is in which fold.

    Returns:
        Scores of all pairs, in their original order; all runs share one reference.

    Raises:
        ValueError: If there are fewer than two folds, or fewer pairs than folds.
    """
    if not 2 <= folds <= len(preferences):
        raise ValueError(
            f"folds={folds}: must be between 2 and the {len(preferences)} pairs, since each fold "
            "is scored by a run on the others. Four is a good default."
        )
    quiet = {"held_out": 0.0, "eval_every": 0, "eval_pairs": 0, "kl_samples": 0}
    config = replace(config, sample_prompts=0, **quiet)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(preferences), generator=generator).tolist()
    parts = [_fold_scores(config, preferences, order[start::folds]) for start in range(folds)]
    return _joined(preferences, parts)


def _fold_scores(config: TrainConfig, preferences: Preferences, fold: list[int]) -> PairMargins:
    in_fold = set(fold)
    others = [pair for index, pair in enumerate(preferences) if index not in in_fold]
    others = replace(preferences, pairs=tuple(others))
    job = run_job(config, data=others, keep_reference=True, measure=False).job
    held_out = replace(preferences, pairs=tuple(preferences[index] for index in sorted(in_fold)))
    with threads_for(job.policy.model):
        return score_pairs(job, held_out)


def _joined(preferences: Preferences, parts: Sequence[PairMargins]) -> PairMargins:
    """Join the folds' scores, in the original order of the pairs."""
    position = {pair.place: index for index, pair in enumerate(preferences)}
    pairs = [pair for part in parts for pair in part.preferences]
    order = torch.tensor([position[pair.place] for pair in pairs]).argsort()
    columns = {
        name: torch.cat([getattr(part.logps, name) for part in parts])[order] for name in LOGPS
    }
    tokens = [pair for part in parts for pair in part.tokens]
    return PairMargins(
        replace(preferences, pairs=tuple(pairs[i] for i in order)),
        replace(parts[0].tokens, pairs=tuple(tokens[i] for i in order)),
        PairLogps(**columns),
        parts[0].beta,
    )
