"""Training pairs and held-out pairs: a split of its own, or a share of the prompts."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import Any

from dpo_lab.data.pairs import same_prompt
from dpo_lab.data.preferences import Preferences, check_limit, load_preferences
from dpo_lab.data.problems import NAMED, ON_BAD_ROWS, BadRowsRule, RowProblem, in_order
from dpo_lab.data.sources import find_split

TRAINED_ON = "prompt is trained on"
"""Why a pair of a held-out split is left out, though nothing is wrong with its row."""


def load_train_and_held_out(
    source: str | os.PathLike,
    *,
    split: str = "train",
    held_out: float = 0.1,
    seed: int = 0,
    limit: int | None = None,
    **options: Any,
) -> tuple[Preferences, Preferences]:
    """Training pairs and held-out pairs, which share no prompt.

    A source with a split named `test`, `validation`, `valid`, `held_out`, `heldout`, `eval` or
    `dev` uses the first of these (beside `train_prefs`, `test_prefs` and so on come before them);
    any other gives up a share of its prompts. A limit is one of training pairs: it is applied after
    that share is held out, for which all rows are read. Where nothing is, or a split of its own,
    reading stops at the limit.

    Args:
        source: As in `load_preferences`.
        split: The training split.
        held_out: Share of the prompts to hold out where the source has no such split, in [0, 1).
        seed: Which prompts, if so.
        limit: Most training pairs, the first.
        **options: Passed to `load_preferences`.

    Returns:
        Training pairs, held-out pairs; the latter may be empty if `held_out` is 0.
    """
    _check_held_out(held_out)
    check_limit(limit)
    rule = BadRowsRule(options.pop("on_bad_rows", None))
    options["on_bad_rows"] = rule.on_bad_rows or ON_BAD_ROWS  # the warning is this caller's
    other = find_split(str(source), exclude=split) if held_out else None
    divided = bool(held_out) and other is None
    train = load_preferences(source, split, limit=None if divided else limit, **options)
    rule.warn(train.report.skipped, train.report)
    if other is None:
        return split_by_prompt(train, held_out, seed, limit)
    rest = load_preferences(source, other, **options)
    rule.warn(rest.report.skipped, rest.report)
    return train, _without_prompts(rest, {same_prompt(pair.prompt) for pair in train})


def split_by_prompt(
    preferences: Preferences, held_out: float, seed: int = 0, limit: int | None = None
) -> tuple[Preferences, Preferences]:
    """Hold out a share of the prompts, with every pair that belongs to them.

    Args:
        preferences: All pairs.
        held_out: Share of the prompts, in [0, 1); above 0 at least one prompt on either side.
        seed: Which prompts.
        limit: Most training pairs, the first; it changes nothing of what is held out.

    Returns:
        Training pairs, held-out pairs.

    Raises:
        ValueError: If the share is out of range, or there is only one prompt to split.
    """
    _check_held_out(held_out)
    # Prompts that are the same are ranked as one, by the first of their keys in the alphabet.
    names: dict[str, str] = {}
    for pair in preferences:
        same = same_prompt(pair.prompt)
        names[same] = min(names.get(same, pair.prompt_key), pair.prompt_key)
    keys = sorted(names, key=lambda same: prompt_rank(names[same], seed))
    if held_out and len(keys) < 2:
        raise ValueError(
            f"held_out={held_out}: all {len(preferences)} pairs share one prompt, and a split is "
            "by prompt. Use more prompts, or held_out=0."
        )
    count = held_out_prompts(len(keys), held_out)
    held = set(keys[:count])
    inside = tuple(pair for pair in preferences if same_prompt(pair.prompt) in held)
    outside = tuple(pair for pair in preferences if same_prompt(pair.prompt) not in held)[:limit]
    return replace(preferences, pairs=outside), replace(preferences, pairs=inside)


def held_out_prompts(prompts: int, held_out: float) -> int:
    """How many of these prompts are held out: at least one, and not all."""
    return min(max(1, round(held_out * prompts)), prompts - 1) if held_out else 0


def _without_prompts(held_out: Preferences, seen: set[str]) -> Preferences:
    """The pairs whose prompt is not trained on, the others counted as skipped."""
    unseen = tuple(pair for pair in held_out if same_prompt(pair.prompt) not in seen)
    known = [pair.row for pair in held_out if same_prompt(pair.prompt) in seen]
    if not known:
        return held_out
    report = held_out.report
    if not unseen:
        raise ValueError(
            f"{report.source}: every prompt is trained on, too, so nothing is held out. "
            "Give a split with other prompts, or held_out=0 for none."
        )
    problems = (RowProblem(row, "prompt", TRAINED_ON) for row in known[:NAMED])
    report = replace(
        report,
        kept=len(unseen),
        skipped={**report.skipped, TRAINED_ON: len(known)},
        problems=in_order([*report.problems, *problems]),
    )
    return replace(held_out, pairs=unseen, report=report)


def prompt_rank(key: str, seed: int) -> bytes:
    """What prompts are sorted by, 8 bytes; the first are held out."""
    return hashlib.blake2b(f"{seed}:{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _check_held_out(held_out: float) -> None:
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out={held_out}: must be in [0, 1). 0 holds nothing out.")
