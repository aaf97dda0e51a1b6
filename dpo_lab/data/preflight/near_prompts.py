"""Held-out prompts that nearly equal a prompt that is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from dpo_lab.data.preflight.column_files import ColumnFiles
from dpo_lab.data.preflight.division import Division, prompt_of
from dpo_lab.data.preflight.minhash import BANDS, Shingle, jaccard, words_of

NEAR = 0.7
"""Prompts are nearly equal if they share this much of their shingles, three words each (Jaccard);
one word changed among twenty leaves 0.71."""
_COMPARED, _AT_MOST = 8, 64
"""Prompts that are compared with one: of those that agree in a band, and in all. More than a few
agree only where many prompts share much."""


def near_prompts(
    columns: ColumnFiles,
    division: Division,
    template: frozenset[Shingle] = frozenset(),
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, tuple[int, float]]:
    """Held-out prompts, each with one nearly equal that is trained on.

    Candidates come from MinHash; each is compared word by word, so that none is named that is not
    nearly equal. Prompts that are equal but for white space are not among them.

    Args:
        columns: Of all pairs.
        division: Their split.
        template: Shingles that many prompts share, which do not count.
        progress: Called with bands compared, and all bands.

    Returns:
        The index of a held-out pair, the first of its prompt, to that of a pair that is trained on
        and their similarity.
    """
    found: dict[int, tuple[int, float]] = {}
    left = np.flatnonzero(division.first & division.held_out)
    trained = division.first & ~division.held_out
    spent: Counter[int] = Counter()
    for number in range(BANDS):
        name = f"band{number}"
        wanted = _gathered(columns, name, left)
        for start, (codes,) in columns.blocks(name):
            (inside,) = np.nonzero(trained[start : start + len(codes)])
            inside = inside[np.argsort(codes[inside], kind="stable")]
            ordered, rows = codes[inside], inside + start
            begins, ends = (np.searchsorted(ordered, wanted, side) for side in ("left", "right"))
            for place in np.flatnonzero(begins < ends):
                row, begin = int(left[place]), begins[place]
                if row not in found and spent[row] < _AT_MOST:
                    others = rows[begin : min(ends[place], begin + _COMPARED)]
                    spent[row] += len(others)
                    if likest := _likest(columns, row, others, template):
                        found[row] = likest
        left = np.setdiff1d(left, list(found))
        if progress:
            progress(number + 1, BANDS)
    return found


def _gathered(columns: ColumnFiles, name: str, rows: np.ndarray) -> np.ndarray:
    """Values of a column in some rows, in order."""
    parts = [
        values[rows[(rows >= start) & (rows < start + len(values))] - start]
        for start, (values,) in columns.blocks(name)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint32)


def _likest(
    columns: ColumnFiles, row: int, others: np.ndarray, template: frozenset[Shingle]
) -> tuple[int, float] | None:
    """The one that is most nearly equal and not equal, if it is near enough."""
    (key,) = columns.read("prompt", row, row + 1)
    words = words_of(prompt_of(columns.text(row)))
    compared = [
        (jaccard(words, words_of(prompt_of(columns.text(other))), template), other)
        for other in map(int, others)
        if columns.read("prompt", other, other + 1)[0] != key
    ]
    likeness, other = max(compared, default=(0.0, 0))
    return (other, likeness) if likeness >= NEAR else None
