"""A list on disk of all rows of all findings, so that they can be taken out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType


class RowList:
    """Writes a line of JSON for each row of a finding, as soon as it is found.

    Args:
        path: The file, replaced if there is one; none writes nothing.
    """

    def __init__(self, path: Path | None):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8") if path else None

    def add(self, name: str, split: str, row: int) -> None:
        """List a row."""
        if self._file:
            line = {"finding": name, "split": split, "row": row}
            self._file.write(json.dumps(line) + "\n")

    def add_all(self, name: str, split: str, rows: Iterable[int]) -> None:
        """List rows of one finding."""
        for row in rows:
            self.add(name, split, row)

    def __enter__(self) -> RowList:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file:
            self._file.close()
