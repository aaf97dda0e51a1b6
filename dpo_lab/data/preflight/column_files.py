"""Columns of numbers and a column of text on disk, appended to and read a block at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

BLOCK = 1 << 17
"""Rows that are read at once."""
GROUPED = 1 << 18
"""Rows that are sorted at once, on average."""


class ColumnFiles:
    """Columns in the files of a folder; no more than some blocks of them are ever in memory.

    Args:
        folder: An empty folder, which the caller removes.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self._folder, self._kinds, self._rows = folder, {}, 0
        self._files, self._text_end = {}, 0

    def __len__(self) -> int:
        return self._rows

    def append(self, columns: Mapping[str, np.ndarray], texts: Sequence[str]) -> None:
        """Add rows.

        Args:
            columns: The same names each time, each with a number per row.
            texts: The text of each row.
        """
        sizes = [text.encode("utf-8", "surrogatepass") for text in texts]
        ends = self._text_end + np.cumsum([len(text) for text in sizes], dtype=np.int64)
        for name, values in {**columns, "text_end": ends}.items():
            self._kinds.setdefault(name, values.dtype)
            self._file(name).write(values.astype(self._kinds[name]).tobytes())
        self._file("text").write(b"".join(sizes))
        self._text_end = int(ends[-1]) if len(ends) else self._text_end
        self._rows += len(texts)

    def finish(self) -> None:
        """Write what is still in buffers; from then on it is only read."""
        for file in self._files.values():
            file.close()
        self._files = {}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Some rows of a column."""
        stop = self._rows if stop is None else min(stop, self._rows)
        kind = self._kinds[name]
        offset = start * kind.itemsize
        return np.fromfile(self._folder / name, kind, max(0, stop - start), offset=offset)

    def text(self, row: int) -> str:
        """The text of a row."""
        start, end = 0, *self.read("text_end", row, row + 1)
        if row:
            (start,) = self.read("text_end", row - 1, row)
        with (self._folder / "text").open("rb") as file:
            file.seek(int(start))
            return file.read(int(end - start)).decode("utf-8", "surrogatepass")

    def blocks(self, *names: str) -> Iterator[tuple[int, list[np.ndarray]]]:
        """All rows of some columns, a block at a time, with the index of its first row."""
        for start in range(0, self._rows, BLOCK):
            yield start, [self.read(name, start, start + BLOCK) for name in names]

    def groups(self, key: str, *names: str) -> Iterator[Groups]:
        """All rows with some values of a column at a time, so that equal ones come together."""
        parts = np.uint64(max(1, -(-self._rows // GROUPED)))
        for part in range(int(parts)):
            found: list[list[np.ndarray]] = []
            for start, (keys, *others) in self.blocks(key, *names):
                (inside,) = np.nonzero(keys % parts == part)
                found.append([keys[inside], start + inside, *(o[inside] for o in others)])
            if not found:
                return
            keys, index, *others = (np.concatenate(column) for column in zip(*found, strict=True))
            order = np.argsort(keys, kind="stable")
            columns = dict(zip(names, (other[order] for other in others), strict=True))
            yield Groups(keys[order], index[order], columns)

    def _file(self, name: str):
        if name not in self._files:
            self._files[name] = (self._folder / name).open("ab")
        return self._files[name]


class Groups:
    """Rows sorted by a key, so that those with one key follow each other.

    Args:
        keys: Of each row, in order.
        index: Index of each row.
        columns: Other columns of the same rows.

    Attributes:
        index: Index of each row.
        columns: Other columns of the same rows.
        starts: Where each group begins.
        sizes: Rows of each group.
    """

    def __init__(self, keys: np.ndarray, index: np.ndarray, columns: dict[str, np.ndarray]):
        self.index, self.columns = index, columns
        self.starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]][: len(keys)])
        self.sizes = np.diff(np.r_[self.starts, len(keys)])

    def any(self, marks: np.ndarray) -> np.ndarray:
        """Which groups have a row that is marked."""
        return np.logical_or.reduceat(marks, self.starts) if len(self.starts) else marks[:0]

    def members(self, groups: np.ndarray) -> np.ndarray:
        """Which rows belong to groups that are marked."""
        return np.repeat(groups, self.sizes)
