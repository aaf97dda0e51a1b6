"""Writes the rows that nothing is wrong with, divided as a run would divide them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from dpo_lab.data.preflight.column_files import BLOCK, ColumnFiles
from dpo_lab.data.preflight.division import Division
from dpo_lab.data.readers import Row

FILES = ("train.jsonl", "test.jsonl")
LEFT_OUT = frozenset(
    ("foreign_markup", "own_markup", "same_but_space", "score_against", "score_tied")
)
"""Findings of single pairs whose rows are left out; those without usable ids are as well. What is
only cut or repaired in training stays."""


def write_clean(
    folder: Path,
    splits: Mapping[str, Iterable[Row]],
    columns: ColumnFiles,
    division: Division,
    near: Mapping[int, object],
) -> tuple[int, int]:
    """Write `train.jsonl` and `test.jsonl` with the rows of a source that are to be kept, as read.

    Left out are pairs that cannot be used or of which `LEFT_OUT` says so (column `drop`), both of a
    pair with both labels, repeats, and held-out pairs whose prompt is trained on or nearly equals
    one that is.

    Args:
        folder: Made if it is not there; files of these names in it are replaced.
        splits: Rows of each split, from the beginning, in the order in which they were checked.
        columns: Of all pairs.
        division: Their split.
        near: Held-out prompts that nearly equal one that is trained on, by the first pair's index.

    Returns:
        Rows written to train, and to test.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keep = _kept(columns, division, near)
    written = [0, 0]
    pairs = _pairs(columns, tuple(splits))
    following = next(pairs, None)
    files = [(folder / name).open("w", encoding="utf-8") for name in FILES]
    with files[0], files[1]:
        for split, rows in splits.items():
            for row in rows:
                if following is None or following[:2] != (split, row.number):
                    continue  # it made no pair
                index, following = following[2], next(pairs, None)
                if keep[index]:
                    side = int(division.held_out[index])
                    files[side].write(json.dumps(row.value, default=str) + "\n")
                    written[side] += 1
    if not written[1]:
        (folder / FILES[1]).unlink()  # an empty file is no split
    return written[0], written[1]


def _kept(columns: ColumnFiles, division: Division, near: Mapping[int, object]) -> np.ndarray:
    keep = np.ones(len(columns), bool)
    for rows in (division.equal, division.repeated, division.both_labels):
        keep[rows] = False
    prompts = np.array([columns.read("prompt", row, row + 1)[0] for row in near], np.uint64)
    for start, (usable, drop, keys) in columns.blocks("usable", "drop", "prompt"):
        here = slice(start, start + BLOCK)
        keep[here] &= usable & ~drop
        keep[here] &= ~(division.held_out[here] & np.isin(keys, prompts))
    return keep


def _pairs(columns: ColumnFiles, splits: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Split, row number and index of each pair, in order."""
    for start, (rows, which) in columns.blocks("row", "split"):
        for place, (row, split) in enumerate(zip(rows.tolist(), which.tolist(), strict=True)):
            yield splits[split], row, start + place
