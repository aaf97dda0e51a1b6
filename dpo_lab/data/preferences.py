"""Preference pairs: read from anywhere, checked row by row, brought to one shape.

Rows may be explicit (`prompt`, `chosen`, `rejected`), implicit (`chosen` and `rejected` begin with
the same prompt, up to a turn or a line) or conversational (lists of `{"role", "content"}`,
which may be written as JSON in a cell of text).
Whatever is wrong is reported with its row number, column and reason, all rows at once; columns and
message fields that nothing uses are named.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dpo_lab.data.builtin import BUILTIN, RewardFn, builtin_path
from dpo_lab.data.collect import collect_pairs
from dpo_lab.data.problems import (
    NAMED,
    ON_BAD_ROWS,
    LoadReport,
    OnBadRows,
    RowProblem,
    check_bad_rows_options,
    warn_of_skipped,
)
from dpo_lab.data.readers import MAX_GZ_GB
from dpo_lab.data.rows import COLUMNS, Pair, Text, same_prompt
from dpo_lab.data.sampled import Sampled
from dpo_lab.data.sources import find_split, read_rows

TRAINED_ON = "prompt is trained on"
"""Why a pair of a held-out split is left out, though nothing is wrong with its row."""


@dataclass(frozen=True)
class Preferences(Sequence[Pair]):
    """A data set of preference pairs, with where it came from.

    Attributes:
        pairs: The pairs, in the source's order.
        report: What was read and skipped.
        score: Ground-truth score of `(prompt, response)`, where the data set has one.
    """

    pairs: tuple[Pair, ...]
    report: LoadReport
    score: RewardFn | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index):
        """The pair at an index."""
        return self.pairs[index]

    @property
    def prompts(self) -> list[Text]:
        """Every prompt once, in order of first appearance."""
        return list({pair.prompt_key: pair.prompt for pair in self.pairs}.values())

    def fingerprint(self) -> str:
        """Hash of the pairs' text, the same wherever they were read from; and of sampled ids."""
        digest = hashlib.blake2b(digest_size=16)
        for pair in self.pairs:
            parts = [pair.prompt, pair.chosen, pair.rejected]
            if pair.chosen_sampled or pair.rejected_sampled:
                sides = (pair.chosen_sampled, pair.rejected_sampled)
                parts += [side and side.as_dict() for side in sides]
            digest.update(json.dumps(parts).encode())
        return digest.hexdigest()


def load_preferences(
    source: str | os.PathLike,
    split: str = "train",
    *,
    columns: Mapping[str, str] | None = None,
    on_bad_rows: OnBadRows | None = None,
    max_problems: int = NAMED,
    limit: int | None = None,
    max_gz_gb: float = MAX_GZ_GB,
) -> Preferences:
    """Read preference pairs.

    Args:
        source: `reviews`, `places`, a file (`.jsonl`, `.json`, `.csv`, each also `.gz`, or
            `.parquet`), a folder of such files or of `datasets.save_to_disk`, or a hub id.
        split: Which split; of a folder, the file of that name, all its shards
            (`train-00000-of-00003`) or the file whose name begins so. A single file is its own
            only split and any name is accepted.
        columns: Names in the source of `prompt`, `chosen`, `rejected`, where they differ.
        on_bad_rows: `skip` leaves bad rows out and counts them in the report; `raise` stops with
            every one listed. By default they are skipped with a warning (`SkippedRows`).
        max_problems: How many bad rows are named; all are counted.
        limit: Keep the first so many pairs.
        max_gz_gb: Most GB (1e9 bytes) that a `.gz` file may unpack to.

    Returns:
        The pairs, with a report of what was read and skipped.

    Raises:
        BadRows: With `on_bad_rows="raise"`, if any row cannot be used.
        FileNotFoundError: If there is no such source or split, or a shard of it is missing.
        ValueError: If nothing is left, or an argument is out of range.
    """
    columns = _check_columns(columns)
    check_bad_rows_options(on_bad_rows, max_problems)
    _check_limit(limit)
    name = str(source)
    score = BUILTIN[name].score if name in BUILTIN else None
    if not max_gz_gb > 0:
        raise ValueError(f"max_gz_gb={max_gz_gb}: must be > 0. {MAX_GZ_GB:g} is the default.")
    rows = read_rows(builtin_path(name) if name in BUILTIN else name, split, max_gz_gb)
    pairs, report = collect_pairs(
        f"{name} ({split})",
        rows,
        columns,
        on_bad_rows=on_bad_rows or ON_BAD_ROWS,
        max_problems=max_problems,
        limit=limit,
        ignored=BUILTIN[name].facts if name in BUILTIN else (),
    )
    if on_bad_rows is None:
        warn_of_skipped(report.skipped, report)
    return Preferences(pairs, report, score)


def preferences_from_rows(
    rows: Iterable[Mapping[str, Any]],
    *,
    columns: Mapping[str, str] | None = None,
    on_bad_rows: OnBadRows | None = None,
    max_problems: int = NAMED,
    score: RewardFn | None = None,
    name: str = "rows",
) -> Preferences:
    """The same from rows in memory: dictionaries, or a `datasets.Dataset`.

    Args:
        rows: One mapping a row.
        columns: As in `load_preferences`.
        on_bad_rows: As in `load_preferences`.
        max_problems: As in `load_preferences`.
        score: Ground-truth score of `(prompt, response)`, if there is one.
        name: What to call the source in messages.

    Raises:
        BadRows: As `load_preferences`.
        ValueError: As `load_preferences`.
    """
    columns = _check_columns(columns)
    check_bad_rows_options(on_bad_rows, max_problems)
    numbered = enumerate(rows, start=1)
    pairs, report = collect_pairs(
        name, numbered, columns, on_bad_rows=on_bad_rows or ON_BAD_ROWS, max_problems=max_problems
    )
    if on_bad_rows is None:
        warn_of_skipped(report.skipped, report)
    return Preferences(pairs, report, score)


def as_preferences(
    data: str | os.PathLike | Preferences | Iterable[Mapping[str, Any]], **options: Any
) -> Preferences:
    """Preference pairs in any of the forms in which people have them.

    Args:
        data: What `load_preferences` reads, rows in memory, a `datasets.Dataset`, or `Preferences`,
            which are taken as they are.
        **options: As in `load_preferences` or `preferences_from_rows`, of which `None` counts as
            not given.
    """
    if isinstance(data, Preferences):
        return data
    read = load_preferences if isinstance(data, str | os.PathLike) else preferences_from_rows
    return read(data, **options)


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
    _check_limit(limit)
    asked = options.get("on_bad_rows")
    options["on_bad_rows"] = ON_BAD_ROWS if asked is None else asked
    name = str(source)
    other = None
    if held_out:
        other = find_split(builtin_path(name) if name in BUILTIN else name, exclude=split)
    divided = bool(held_out) and other is None
    train = load_preferences(source, split, limit=None if divided else limit, **options)
    if asked is None:
        warn_of_skipped(train.report.skipped, train.report)
    if other is None:
        return split_by_prompt(train, held_out, seed, limit)
    rest = load_preferences(source, other, **options)
    if asked is None:
        warn_of_skipped(rest.report.skipped, rest.report)
    return train, _without_prompts(rest, {same_prompt(pair.prompt) for pair in train})


def _without_prompts(held_out: Preferences, seen: set[str]) -> Preferences:
    """The pairs whose prompt is not trained on, the others counted as skipped."""
    known = [pair.row for pair in held_out if same_prompt(pair.prompt) in seen]
    if not known:
        return held_out
    unseen = tuple(pair for pair in held_out if same_prompt(pair.prompt) not in seen)
    report = held_out.report
    if not unseen:
        raise ValueError(
            f"{report.source}: every prompt is trained on, too, so nothing is held out. "
            "Give a split with other prompts, or held_out=0 for none."
        )
    reason = TRAINED_ON
    problems = [*report.problems, *(RowProblem(row, "prompt", reason) for row in known[:NAMED])]
    report = replace(
        report,
        kept=len(unseen),
        skipped={**report.skipped, reason: len(known)},
        problems=tuple(sorted(problems, key=lambda problem: problem.row)),
    )
    return replace(held_out, pairs=unseen, report=report)


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
        ValueError: If the share is out of range, or there is but one prompt to split.
    """
    _check_held_out(held_out)
    # Prompts that are the same are ranked as one, by the first of their keys in the alphabet.
    names: dict[str, str] = {}
    for pair in preferences:
        same = same_prompt(pair.prompt)
        names[same] = min(names.get(same, pair.prompt_key), pair.prompt_key)
    keys = sorted(names, key=lambda same: _rank(names[same], seed))
    if held_out and len(keys) < 2:
        raise ValueError(
            f"held_out={held_out}: all {len(preferences)} pairs share one prompt, and a split is "
            "by prompt. Use more prompts, or held_out=0."
        )
    count = min(max(1, round(held_out * len(keys))), len(keys) - 1) if held_out else 0
    held = set(keys[:count])
    inside = tuple(pair for pair in preferences if same_prompt(pair.prompt) in held)
    outside = tuple(pair for pair in preferences if same_prompt(pair.prompt) not in held)[:limit]
    return replace(preferences, pairs=outside), replace(preferences, pairs=inside)


def prompt_text(prompt: Text) -> str:
    """A prompt as a person would read it: the text, or the last message's."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def response_text(response: Text) -> str:
    """A response as a person would read it."""
    return response if isinstance(response, str) else response[-1]["content"]


def answer_to(prompt: Text, text: str) -> Text:
    """A response's text in the shape of its prompt: the text, or a list of one message."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def pair_row(
    prompt: Text,
    chosen: str,
    rejected: str,
    chosen_sampled: Sampled | None = None,
    rejected_sampled: Sampled | None = None,
) -> dict[str, Any]:
    """A pair as a row of JSON: what TRL reads, and the ids of responses that a model sampled."""
    row = {
        "prompt": prompt,
        "chosen": answer_to(prompt, chosen),
        "rejected": answer_to(prompt, rejected),
    }
    sampled = {"chosen_sampled": chosen_sampled, "rejected_sampled": rejected_sampled}
    return row | {column: one.as_dict() for column, one in sampled.items() if one}


def _rank(key: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _check_held_out(held_out: float) -> None:
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out={held_out}: must be in [0, 1). 0 holds nothing out.")


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: must be at least 1. Leave it out to read every row.")


def _check_columns(columns: Mapping[str, str] | None) -> dict[str, str]:
    unknown = sorted(set(columns or {}) - set(COLUMNS))
    if unknown:
        raise ValueError(
            f"columns: {unknown[0]!r} is no column of a preference pair. "
            f"Map from {', '.join(COLUMNS)} to the names in your data."
        )
    return {name: (columns or {}).get(name, name) for name in COLUMNS}
