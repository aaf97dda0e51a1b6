"""What a run's loss needs of the data besides pairs: checked, or taken from the ground truth."""

from __future__ import annotations

from dataclasses import replace

from dpo_lab.data.builtin import RewardFn
from dpo_lab.data.pairs import Pair, prompt_text, response_text
from dpo_lab.data.preferences import Preferences
from dpo_lab.objective.registry import Loss


def with_scores(pairs: Preferences, loss: Loss) -> Preferences:
    """The pairs with the scores that the loss needs: their own, or those of the ground truth.

    Args:
        pairs: The pairs.
        loss: The loss; if it uses no scores, the pairs stay as they are.

    Raises:
        ValueError: If a pair has no scores, and the data set no ground truth.
    """
    missing = [pair.row for pair in pairs if pair.score_margin is None]
    if not loss.uses_scores or not missing:
        return pairs
    if pairs.reward_fn is None:
        raise ValueError(
            f"{pairs.report.source}: {len(missing)} of {len(pairs)} pairs have no scores (row "
            f"{missing[0]}), which the loss {loss.title!r} needs. Give the columns score_chosen "
            "and score_rejected, map yours (--columns score_chosen NAME score_rejected NAME), or "
            "use another loss."
        )
    return replace(pairs, pairs=tuple(_scored(pair, pairs.reward_fn) for pair in pairs))


def _scored(pair: Pair, reward_fn: RewardFn) -> Pair:
    if pair.score_margin is not None:
        return pair
    prompt = prompt_text(pair.prompt)
    chosen, rejected = (
        reward_fn(prompt, response_text(side)) for side in (pair.chosen, pair.rejected)
    )
    return replace(pair, score_margin=float(chosen - rejected))
