"""Records of a run stored in columns: compact for long runs, and fast to plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from dpo_lab.training.records import STEP_FIELDS, StepRecord

_TIMING = "timing/"
_WHOLE = ("step", "pairs_seen", "pairs")


class History(Sequence[StepRecord]):
    """Records in order of steps; one thread may append while others read.

    The numbers are in one float64 table, which doubles its rows when it is full.

    Args:
        records: Initial records.
    """

    def __init__(self, records: Iterable[StepRecord] = ()):
        self._column_of: dict[str, int] = {}
        self._table = np.full((64, 0), np.nan)
        self._length = 0
        for record in records:
            self.append(record)

    @classmethod
    def of(cls, records: Iterable[StepRecord]) -> History:
        """The records as a history; returned as they are if they already are one."""
        return records if isinstance(records, cls) else cls(records)

    def append(self, record: StepRecord) -> None:
        """Add a record."""
        line = record.as_dict() | {_TIMING + key: value for key, value in record.timing.items()}
        fresh = [key for key in line if key not in self._column_of]
        rows, width = self._table.shape
        if fresh or self._length == rows:
            # A reader keeps the old table; the new one is filled before it replaces the old.
            grown = np.full(
                (2 * rows if self._length == rows else rows, width + len(fresh)), np.nan
            )
            grown[:rows, :width] = self._table
            self._table = grown
            self._column_of = self._column_of | {key: width + i for i, key in enumerate(fresh)}
        self._table[self._length, [self._column_of[key] for key in line]] = list(line.values())
        self._length += 1

    def columns(self, *keys: str) -> np.ndarray:
        """Step and values of every step on which all keys were measured.

        Args:
            *keys: Logged names.

        Returns:
            `(steps, 1 + keys)`, float64: step, then each key's value in its own unit.
        """
        # Read names before the table: a newer table may have more columns than names, never fewer.
        length, column_of, table = self._length, self._column_of, self._table
        wanted = [column_of.get(key) for key in ("step", *keys)]
        if None in wanted:
            return np.empty((0, 1 + len(keys)))
        values = table[:length, wanted]
        return values[~np.isnan(values).any(axis=1)]

    def last(self, key: str) -> float | None:
        """The newest value of a key; None if it was never measured."""
        values = self.columns(key)
        return float(values[-1, 1]) if len(values) else None

    def newest(self, *keys: str) -> StepRecord | None:
        """The newest record on which every key was measured, or None."""
        measured = self.columns(*keys)
        if not len(measured):
            return None
        steps = self.columns("step")[:, 0]
        return self[int(np.flatnonzero(steps == measured[-1, 0])[-1])]

    def __len__(self) -> int:
        """Number of records."""
        return self._length

    def __getitem__(self, index):
        """A record, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        column_of, table = self._column_of, self._table
        cells = {key: table[row, column].item() for key, column in column_of.items()}
        cells = {key: value for key, value in cells.items() if value == value}  # without NaN
        cells |= {key: int(cells[key]) for key in _WHOLE if key in cells}
        fields, values, timing = {}, {}, {}
        for key, value in cells.items():
            if key in STEP_FIELDS:
                fields[key] = value
            elif key.startswith(_TIMING):
                timing[key.removeprefix(_TIMING)] = value
            else:
                values[key] = value
        return StepRecord(**fields, values=values, timing=timing)
