"""Checks a data set of any size in constant memory: rows in chunks, what they hold in columns."""

from __future__ import annotations

import os
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from dpo_lab.data.builtin import BUILTIN
from dpo_lab.data.preferences import Preferences
from dpo_lab.data.preflight.assemble import Assembly, script_counts
from dpo_lab.data.preflight.chunk import Chunk, Examiner
from dpo_lab.data.preflight.clean import write_clean
from dpo_lab.data.preflight.column_files import ColumnFiles
from dpo_lab.data.preflight.division import Division, divide
from dpo_lab.data.preflight.findings import Tally
from dpo_lab.data.preflight.kinds import KINDS, kind_of
from dpo_lab.data.preflight.lengths import pair_lengths
from dpo_lab.data.preflight.minhash import Shingle
from dpo_lab.data.preflight.near_prompts import near_prompts
from dpo_lab.data.preflight.result import DataCheck, SplitCount
from dpo_lab.data.preflight.row_list import RowList
from dpo_lab.data.preflight.settings import CheckSettings
from dpo_lab.data.preflight.shortcuts import rule_results
from dpo_lab.data.preflight.signs import SCRIPT_NAMES
from dpo_lab.data.readers import Row, numbered
from dpo_lab.data.rows import COLUMNS
from dpo_lab.data.sources import find_split, read_rows
from dpo_lab.data.text_to_ids import Encoder

CHUNK = 1000
"""Rows that are looked at together."""
ALONE = 20
"""Chunks before other processes are started: a small data set is done by then."""
Data = str | os.PathLike | Preferences | Iterable[Mapping[str, Any]]
Progress = Callable[[str, int, int], None]


def check_pairs(
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    settings: CheckSettings | None = None,
    *,
    vocabulary: int | None = None,
    processes: int = 1,
    rows_out: Path | None = None,
    clean_out: Path | None = None,
    progress: Progress | None = None,
) -> DataCheck:
    """Look at preference pairs as a run with this tokenizer would use them.

    Nothing is held in memory but one chunk of rows, counts, and a few bytes a pair at the end:
    columns of numbers, and the prompts, lie in a temporary folder. A file of `.jsonl` is read line
    by line, `.parquet` and data sets of the hub batch by batch; `.json` and `.csv` are read whole.

    Args:
        data: What `load_preferences` reads, rows in memory, a `datasets.Dataset`, or `Preferences`.
        tokenizer: The model's tokenizer.
        settings: Settings of the check; by default those of a run without any.
        vocabulary: How many ids the model has an embedding for; all, if not given.
        processes: How many processes look at chunks, once there are more than a few.
        rows_out: A file for all rows of all findings but notes and rules: a line of JSON each.
        clean_out: A folder for `train.jsonl` and `test.jsonl` with the rows that `write_clean`
            keeps; the data is read once more for it.
        progress: Called with the current work, how much is done, and the total (0 if unknown).

    Returns:
        What was found.

    Raises:
        FileNotFoundError: If there is no such source or split.
        ValueError: If a file as a whole cannot be read, no row makes a pair, or rows that can be
            read only once are to be written.
    """
    if clean_out:
        _check_read_twice(data)
    settings = settings or CheckSettings()
    if isinstance(data, Preferences):  # its columns were read already
        settings = replace(settings, columns={})
    builtin = BUILTIN.get(str(data)) if isinstance(data, str | os.PathLike) else None
    ignored = builtin.facts if builtin else ()
    examiner = Examiner(Encoder(tokenizer, vocabulary), settings, ignored)
    splits, name = _splits(data, settings)
    with tempfile.TemporaryDirectory(prefix="dpo-lab-check-") as folder, RowList(rows_out) as rows:
        found = _Found.empty(Path(folder), tuple(splits), rows)
        done = 0
        for chunk in _chunks(splits, examiner, processes):
            found.add(chunk)
            done += chunk.rows
            if progress:
                progress("rows", done, 0)
        found.template = examiner.template
        checked, *split = found.result(name, tokenizer.name_or_path, settings, progress)
        if not clean_out:
            return checked
        if progress:
            progress("writing clean rows", 0, 0)
        again, _ = _splits(data, settings)
        return replace(checked, cleaned=write_clean(clean_out, again, found.kept, *split))


def _check_read_twice(data: Data) -> None:
    if isinstance(data, Iterator):
        raise ValueError(
            "clean_out: these rows can be read only once, and writing them takes a second time. "
            "Give a list, a data set or a file."
        )


def _splits(data: Data, settings: CheckSettings) -> tuple[dict[str, Iterator[Row]], str]:
    """Rows of each split, and what to call the source."""
    if isinstance(data, Preferences):
        rows = (Row(pair.row, {name: getattr(pair, name) for name in COLUMNS}) for pair in data)
        return {settings.split: islice(rows, settings.limit)}, data.report.source
    if not isinstance(data, str | os.PathLike):
        return {settings.split: islice(numbered(data), settings.limit)}, "rows"
    source = str(data)
    names = [settings.split]
    if settings.held_out and (other := find_split(source, exclude=settings.split)):
        names.append(other)
    splits = {
        name: islice(read_rows(source, name, settings.max_gz_gb), settings.limit) for name in names
    }
    return splits, source


def _chunks(
    splits: Mapping[str, Iterator[Row]], examiner: Examiner, processes: int
) -> Iterator[Chunk]:
    """What was found in each chunk, in order."""
    work = ((name, rows) for name, all_rows in splits.items() for rows in _parted(all_rows))
    first = next(work, None)
    if first is None:
        return
    examiner.learn_template(first[1])
    work = chain([first], work)
    for name, rows in islice(work, ALONE if processes > 1 else None):
        yield examiner.examine(name, rows)
    first = next(work, None)
    if first is None:
        return
    # A fork would copy locks that other threads hold.
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin, (examiner,))
    try:
        waiting: deque[Future[Chunk]] = deque([pool.submit(_examine, *first)])
        for name, rows in work:
            waiting.append(pool.submit(_examine, name, rows))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _parted(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


_EXAMINER: list[Examiner] = []
"""That of a process which was started for chunks."""


def _begin(examiner: Examiner) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are as many as the cores
    _EXAMINER[:] = [examiner]


def _examine(name: str, rows: list[Row]) -> Chunk:
    return _EXAMINER[0].examine(name, rows)


@dataclass
class _Found:
    """What the chunks so far hold; pairs with a prompt column, and those without, apart."""

    splits: tuple[str, ...]
    listed: RowList
    columns: dict[bool, ColumnFiles]
    tallies: dict[bool, Tally]
    first: dict[bool, dict[int, str]]
    rows: Counter[str] = field(default_factory=Counter)
    skipped: Tally = field(default_factory=Tally)
    unused: Counter[str] = field(default_factory=Counter)
    overlooked: dict[str, int] = field(default_factory=dict)
    template: frozenset[Shingle] = frozenset()

    @classmethod
    def empty(cls, folder: Path, splits: tuple[str, ...], listed: RowList) -> _Found:
        both = (False, True)
        columns = {implicit: ColumnFiles(folder / str(implicit)) for implicit in both}
        tallies, first = {one: Tally() for one in both}, {one: {} for one in both}
        return cls(splits, listed, columns, tallies, first)

    def add(self, chunk: Chunk) -> None:
        self.rows[chunk.split] += chunk.rows
        self.skipped.merge(chunk.skipped)
        self.unused.update(chunk.unused)
        self.overlooked = chunk.overlooked | self.overlooked
        for rows in chunk.skipped.rows.values():
            self.listed.add_all("skipped", chunk.split, rows)
        for implicit, piece in chunk.pieces.items():
            split = np.full(len(piece.prompts), self.splits.index(chunk.split), np.uint8)
            self.columns[implicit].append(piece.columns | {"split": split}, piece.prompts)
            self.tallies[implicit].merge(piece.tally)
            for name, rows in piece.tally.rows.items():
                if kind := kind_of(name):
                    self.listed.add_all(kind, chunk.split, rows)
            self.first[implicit] = piece.first | self.first[implicit]

    @property
    def kept(self) -> ColumnFiles:
        """The pairs that count, as in training: beside rows with a prompt, one without lost it."""
        return self.columns[not len(self.columns[False])]

    def result(
        self, source: str, tokenizer: str, settings: CheckSettings, progress: Progress | None
    ) -> tuple[DataCheck, Division, Mapping[int, tuple[int, float]]]:
        """All of it put together, with the split and its nearly equal prompts."""
        implicit = self.kept is self.columns[True]
        columns, tally = self.columns[implicit], self.tallies[implicit]
        lost = 0 if implicit else len(self.columns[True])
        for files in self.columns.values():
            files.finish()
        if not len(columns):
            raise ValueError(self._nothing(source))
        division = divide(columns, len(self.splits) > 1, settings.held_out, settings.seed)
        bands = progress and (lambda done, total: progress("nearly equal prompts", done, total))
        near = near_prompts(columns, division, self.template, bands)
        lengths = pair_lengths(columns)
        rules = rule_results(tally, columns, self.first[implicit])
        rows = sum(self.rows.values())
        assembly = Assembly(columns, self.splits, lengths, settings.max_length, rows, self.listed)
        assembly.of_rows(self.skipped, self.unused, self.overlooked if implicit else {})
        assembly.add("lost_prompt", KINDS["lost_prompt"], lost, assembly.rows, ())
        assembly.of_pairs(tally, len(columns))
        assembly.of_division(division, near)
        assembly.of_rules(rules)
        held = int(division.held_out.sum())
        checked = DataCheck(
            source,
            tokenizer,
            settings,
            self._counts(columns),
            len(columns) - held,
            held,
            division.prompts,
            lengths,
            rules,
            script_counts(columns, SCRIPT_NAMES),
            assembly.sorted(),
        )
        return checked, division, near

    def _counts(self, columns: ColumnFiles) -> dict[str, SplitCount]:
        pairs, usable = np.zeros(len(self.splits), np.int64), np.zeros(len(self.splits), np.int64)
        for _, (split, use) in columns.blocks("split", "usable"):
            pairs += np.bincount(split, minlength=len(pairs))
            usable += np.bincount(split[use], minlength=len(pairs))
        return {
            name: SplitCount(self.rows[name], int(pairs[at]), int(usable[at]))
            for at, name in enumerate(self.splits)
        }

    def _nothing(self, source: str) -> str:
        rows = sum(self.rows.values())
        why = ""
        for reason in list(self.skipped.counts)[:1]:
            (first, *_) = self.skipped.shown(reason)
            detail = f", {first.beside}" if first.beside else ""
            why = f" (row {first.row}: {reason}{detail})"
        return (
            f"{source}: none of its {rows} rows makes a pair{why}. Name its columns with "
            "--columns (columns=), or fix its rows."
        )
