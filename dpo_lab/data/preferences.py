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
from typing import TYPE_CHECKING, Any

from dpo_lab.data.builtin import BUILTIN, RewardFn
from dpo_lab.data.collect import collect_pairs
from dpo_lab.data.known_layouts import OTHER
from dpo_lab.data.load_report import LoadReport
from dpo_lab.data.pairs import SIDES, Pair, Text
from dpo_lab.data.problems import NAMED, BadRowsRule, OnBadRows
from dpo_lab.data.ranked import RankedPairs
from dpo_lab.data.readers import MAX_GZ_GB, numbered
from dpo_lab.data.rows import COLUMNS
from dpo_lab.data.scores import SCORES
from dpo_lab.data.sources import read_rows
from dpo_lab.data.thumbs import PAIR_UP, Thumbs, paired_up, taken_apart
from dpo_lab.data.tools import tools_apart

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Preferences(Sequence[Pair]):
    """A data set of preference pairs, with where it came from.

    Attributes:
        pairs: The pairs, in the source's order.
        report: What was read and skipped.
        reward_fn: Ground-truth reward of `(prompt, response)`, where the data set has one.
    """

    pairs: tuple[Pair, ...]
    report: LoadReport
    reward_fn: RewardFn | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index):
        """The pair at an index."""
        return self.pairs[index]

    @property
    def prompts(self) -> list[Text]:
        """Every prompt once, in order of first appearance."""
        return list({pair.prompt_key: pair.prompt for pair in self.pairs}.values())

    def to_dataset(self) -> Dataset:
        """The pairs as a `datasets.Dataset` with `prompt`, `chosen` and `rejected`, as TRL reads.

        Prompts and responses are text, or messages where the source has messages. Tools that
        conversations may call are a column `tools`, as JSON.

        Raises:
            ValueError: If some rows are text and some are messages, which no column can hold.
        """
        from datasets import Dataset

        kinds = {isinstance(pair.prompt, str) for pair in self.pairs}
        if len(kinds) > 1:
            raise ValueError(
                f"{self.report.source}: some rows are text and some are messages, and a data set "
                "has one of them in a column. Make two data sets of it."
            )
        prompts, tools = zip(*(tools_apart(pair.prompt) for pair in self.pairs), strict=True)
        columns = {"prompt": list(prompts)}
        columns |= {side: [getattr(pair, side) for pair in self.pairs] for side in SIDES}
        if any(tools):
            columns["tools"] = [json.dumps(some) for some in tools]
        return Dataset.from_dict(columns)

    def fingerprint(self) -> str:
        """Hash of the pairs' text, the same wherever they were read from; and of sampled ids."""
        digest = hashlib.blake2b(digest_size=16)
        for pair in self.pairs:
            parts = [pair.prompt, pair.chosen, pair.rejected]
            if pair.score_margin is not None:
                parts.append(pair.score_margin)
            if pair.sampled:
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
    keep_ties: bool = False,
    ranked_pairs: RankedPairs = "all",
    thumbs: Thumbs = "refuse",
) -> Preferences:
    """Read preference pairs.

    Args:
        source: `reviews`, `places`, a file (`.jsonl`, `.json`, `.csv`, each also `.gz`, or
            `.parquet`), a folder of such files or of `datasets.save_to_disk`, or a hub id.
        split: Which split; of a folder, the file of that name, all its shards
            (`train-00000-of-00003`) or the file whose name begins so. A single file is its own
            only split and any name is accepted.
        columns: Names in the source of `prompt`, `chosen`, `rejected`, and of the numbers
            `score_chosen` and `score_rejected`, where they differ; of single responses, those of
            `completion` and `label`; of ranked ones, `responses` and `scores` or `ranks`.
        on_bad_rows: `skip` leaves bad rows out and counts them in the report; `raise` stops with
            every one listed. By default they are skipped with a warning (`SkippedRows`).
        max_problems: How many bad rows are named; all are counted.
        limit: Keep the first so many pairs.
        max_gz_gb: Most GB (1e9 bytes) that a `.gz` file may unpack to.
        keep_ties: Whether to keep pairs whose two scores are equal, which are left out otherwise.
        ranked_pairs: Of several scored or ranked responses to a prompt, `all` compares every two,
            `best` the best with each other one.
        thumbs: What becomes of single responses that are called good or bad: by default they are
            refused; `keep` keeps them, as pairs with one side, and takes pairs apart into such;
            `all` or `balanced` pairs up the good and the bad ones of each prompt, as `paired_up`.

    Returns:
        The pairs, with a report of what was read and skipped.

    Raises:
        BadRows: With `on_bad_rows="raise"`, if any row cannot be used.
        FileNotFoundError: If there is no such source or split, or a shard of it is missing.
        ValueError: If nothing is left, or an argument is out of range.
    """
    columns, rule = _check_columns(columns), BadRowsRule(on_bad_rows, max_problems)
    check_limit(limit)
    if not max_gz_gb > 0:
        raise ValueError(f"max_gz_gb={max_gz_gb}: must be > 0. {MAX_GZ_GB:g} is the default.")
    builtin, name = BUILTIN.get(str(source)), f"{source} ({split})"
    rows = read_rows(str(source), split, max_gz_gb)
    ignored = builtin.facts if builtin else ()
    pairs, report = collect_pairs(
        name,
        rows,
        columns,
        rule,
        limit=None if thumbs in PAIR_UP else limit,  # pairs, which need all responses to a prompt
        ignored=ignored,
        keep_ties=keep_ties,
        ranked_pairs=ranked_pairs,
    )
    rule.warn(report.skipped, report)
    loaded = with_thumbs(Preferences(pairs, report, builtin and builtin.reward_fn), thumbs)
    first = loaded.pairs[:limit]
    return replace(loaded, pairs=first, report=replace(loaded.report, kept=len(first)))


def preferences_from_rows(
    rows: Iterable[Mapping[str, Any]],
    *,
    columns: Mapping[str, str] | None = None,
    on_bad_rows: OnBadRows | None = None,
    max_problems: int = NAMED,
    reward_fn: RewardFn | None = None,
    name: str = "rows",
    keep_ties: bool = False,
    ranked_pairs: RankedPairs = "all",
    thumbs: Thumbs = "refuse",
) -> Preferences:
    """The same from rows in memory: dictionaries, or a `datasets.Dataset`.

    Args:
        rows: One mapping a row.
        columns: As in `load_preferences`.
        on_bad_rows: As in `load_preferences`.
        max_problems: As in `load_preferences`.
        reward_fn: Ground-truth reward of `(prompt, response)`, if there is one.
        name: What to call the source in messages.
        keep_ties: As in `load_preferences`.
        ranked_pairs: As in `load_preferences`.
        thumbs: As in `load_preferences`.

    Raises:
        BadRows: As `load_preferences`.
        ValueError: As `load_preferences`.
    """
    columns, rule = _check_columns(columns), BadRowsRule(on_bad_rows, max_problems)
    pairs, report = collect_pairs(
        name, numbered(rows), columns, rule, keep_ties=keep_ties, ranked_pairs=ranked_pairs
    )
    rule.warn(report.skipped, report)
    return with_thumbs(Preferences(pairs, report, reward_fn), thumbs)


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


def with_thumbs(preferences: Preferences, thumbs: Thumbs) -> Preferences:
    """What becomes of single responses, as in `load_preferences`.

    Raises:
        ValueError: If there are some and they are refused, or no two of them make a pair.
    """
    report, singles = preferences.report, sum(pair.single for pair in preferences)
    if thumbs == "keep":
        pairs = taken_apart(preferences)
        ups = sum(bool(pair.chosen) for pair in pairs)
        what = f"single responses ({ups} good, {len(pairs) - ups} bad)"
        report = replace(report, kept=len(pairs), what=what)
        return replace(preferences, pairs=tuple(pairs), report=report)
    if not singles:
        return preferences
    if thumbs == "refuse":
        raise ValueError(
            f"{report.source}: holds single responses called good or bad, not pairs. Train on them "
            "with the loss kto or bco (--loss kto), or pair up those of each prompt (--pair-up "
            "all, thumbs='all')."
        )
    pairs, unused = paired_up(preferences, thumbs)
    if not pairs:
        raise ValueError(
            f"{report.source}: no prompt has both a good and a bad response, so nothing can be "
            "paired up. Train on single responses (--loss kto)."
        )
    what = f"pairs of {singles - unused} single responses, {unused} unpaired,"
    return replace(
        preferences, pairs=tuple(pairs), report=replace(report, kept=len(pairs), what=what)
    )


def check_limit(limit: int | None) -> None:
    """Refuse a limit that would leave no pair.

    Raises:
        ValueError: If so.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: must be at least 1. Leave it out to read every row.")


def _check_columns(columns: Mapping[str, str] | None) -> dict[str, str]:
    names = (*COLUMNS, *SCORES, *OTHER)
    unknown = sorted(set(columns or {}) - set(names))
    if unknown:
        raise ValueError(
            f"columns: {unknown[0]!r} is no column of a preference pair. "
            f"Map from {', '.join(names)} to the names in your data."
        )
    return {name: (columns or {}).get(name, name) for name in names}
