"""Records of a run in columns: small however long the run is, and quick to draw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from dpo_lab.training.records import STEP_FIELDS, StepRecord

_TIMING = "timing/"
_WHOLE = ("step", "pairs_seen", "pairs")


class History(Sequence[StepRecord]):
    """Records in order of steps; one thread may append while others read.

    Numbers lie in one float64 table that doubles when it is full, 8 bytes each.

    Args:
        records: To begin with.
    """

    def __init__(self, records: Iterable[StepRecord] = ()):
        self._places: dict[str, int] = {}
        self._table = np.full((64, 0), np.nan)
        self._length = 0
        for record in records:
            self.append(record)

    @classmethod
    def of(cls, records: Iterable[StepRecord]) -> History:
        """The records as a history; itself if they are one."""
        return records if isinstance(records, cls) else cls(records)

    def append(self, record: StepRecord) -> None:
        """Add a record."""
        line = record.as_dict() | {_TIMING + key: value for key, value in record.timing.items()}
        fresh = [key for key in line if key not in self._places]
        rows, width = self._table.shape
        if fresh or self._length == rows:
            # A reader keeps the table it took; this one is filled before it takes its place.
            grown = np.full(
                (2 * rows if self._length == rows else rows, width + len(fresh)), np.nan
            )
            grown[:rows, :width] = self._table
            self._table = grown
            self._places = self._places | {key: width + i for i, key in enumerate(fresh)}
        self._table[self._length, [self._places[key] for key in line]] = list(line.values())
        self._length += 1

    def columns(self, *keys: str) -> np.ndarray:
        """The steps on which every key was measured.

        Args:
            *keys: Logged names.

        Returns:
            `(steps, 1 + keys)`, float64: step, then each key's value in its own unit.
        """
        # Names before the table: a table may have more columns than the names tell, never fewer.
        length, places, table = self._length, self._places, self._table
        wanted = [places.get(key) for key in ("step", *keys)]
        if None in wanted:
            return np.empty((0, 1 + len(keys)))
        found = table[:length, wanted]
        return found[~np.isnan(found).any(axis=1)]

    def last(self, key: str) -> float | None:
        """The newest value of a key; none where it was never measured."""
        values = self.columns(key)
        return float(values[-1, 1]) if len(values) else None

    def newest(self, *keys: str) -> StepRecord | None:
        """The newest record on which every key was measured; none where there is none."""
        measured = self.columns(*keys)
        if not len(measured):
            return None
        steps = self.columns("step")[:, 0]
        return self[int(np.flatnonzero(steps == measured[-1, 0])[-1])]

    def __len__(self) -> int:
        """How many records there are."""
        return self._length

    def __getitem__(self, index):
        """A record, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        places, table = self._places, self._table
        found = {key: table[row, at].item() for key, at in places.items()}
        found = {key: value for key, value in found.items() if value == value}
        found |= {key: int(found[key]) for key in _WHOLE if key in found}
        fields, values, timing = {}, {}, {}
        for key, value in found.items():
            if key in STEP_FIELDS:
                fields[key] = value
            elif key.startswith(_TIMING):
                timing[key.removeprefix(_TIMING)] = value
            else:
                values[key] = value
        return StepRecord(**fields, values=values, timing=timing)
