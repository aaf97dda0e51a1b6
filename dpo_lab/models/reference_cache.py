"""The cache of reference log-probabilities: an SQLite file with a checksum for each value."""

from __future__ import annotations

import logging
import os
import sqlite3
import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dpo_lab.data.assets import cache_path

logger = logging.getLogger(__name__)

# Checksums are in a separate table, so that versions without them can still use the first one.
TABLES = (
    "CREATE TABLE IF NOT EXISTS logps (key BLOB PRIMARY KEY, logp REAL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS checksums (key BLOB PRIMARY KEY, checksum INTEGER) WITHOUT ROWID",
)
NO_ROOM = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
"""SQLite's error codes for a disk that is full or cannot be written to."""


class ReferenceCache:
    """Sequence log-probabilities on disk, keyed by everything they depend on and nothing else.

    The key is a hash of the token ids, the split into prompt and response (the mask), the weights'
    fingerprint, the precision and the sum rule. So a sweep over beta, loss, learning rate or seed
    finds every value, and a changed model finds none. Several processes may share one cache. If
    the disk cannot be written to, the cache is read only; a warning says so once.

    Args:
        path: The SQLite file; by default in the lab's cache folder.
        read_only: Whether it is a file that nobody changes any more, which is read without locks:
            SQLite's are not safe on shared folders.
    """

    def __init__(self, path: Path | None = None, read_only: bool = False):
        self.path = path or cache_path("reference.sqlite")
        self._writable = not read_only
        self._read_only = read_only
        if read_only:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._make_read_only(error)
        self._write(lambda database: [database.execute(table) for table in TABLES])

    def read(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        """The cached values by key; values written by earlier versions have no checksum.

        Raises:
            ValueError: If a value does not match its checksum.
        """
        if not self._writable and not self.path.exists():
            return {}
        try:
            with closing(self._connect()) as database:
                values, checksums = (_read(database, name, keys) for name in ("logps", "checksums"))
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from None
        damaged = [key for key in checksums if key in values]
        damaged = [key for key in damaged if _checksum(key, values[key]) != checksums[key]]
        if damaged:
            raise ValueError(
                f"{self.path}: {len(damaged)} of {len(values)} values of the reference cache are "
                f"not what was written, such as {values[min(damaged)]!r} nats. It is damaged; "
                "remove the file, and its values will be computed again."
            )
        return values

    def write(self, values: dict[bytes, float]) -> None:
        """Add values; a value that is already there is kept."""
        rows = [(key, value, _checksum(key, value)) for key, value in values.items()]

        def add(database: sqlite3.Connection) -> None:
            database.executemany("INSERT OR IGNORE INTO logps VALUES (?1, ?2)", values.items())
            database.executemany(
                "INSERT OR REPLACE INTO checksums SELECT ?1, ?3 "
                "WHERE (SELECT logp FROM logps WHERE key = ?1) = ?2",
                rows,
            )

        self._write(add)

    def _connect(self) -> sqlite3.Connection:
        if self._read_only:
            address = f"file:{quote(str(self.path))}?mode=ro&immutable=1"
            return sqlite3.connect(address, uri=True)
        return sqlite3.connect(self.path, timeout=60)

    def _write(self, change: Callable[[sqlite3.Connection], Any]) -> None:
        """Change the file in one transaction, if it can be written to."""
        if not self._writable:
            return
        try:
            with closing(self._connect()) as database, database:
                change(database)
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            denied = not self.path.exists() and not os.access(self.path.parent, os.W_OK)
            if code not in NO_ROOM and not denied:
                raise self._unusable(error) from None
            self._make_read_only(error)

    def _make_read_only(self, error: Exception) -> None:
        self._writable = False
        logger.warning(
            "%s: the reference cache cannot be written to (%s). Its values are used; newly "
            "computed values are not stored.",
            self.path,
            error,
        )

    def _unusable(self, error: Exception) -> ValueError:
        return ValueError(
            f"{self.path}: the reference cache cannot be used ({error}). Remove the file; its "
            "values will be computed again."
        )


def _read(database: sqlite3.Connection, name: str, keys: Sequence[bytes]) -> dict[bytes, Any]:
    rows: dict[bytes, Any] = {}
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone():
        return rows
    for start in range(0, len(keys), 500):
        part = keys[start : start + 500]
        marks = ",".join("?" * len(part))
        rows.update(database.execute(f"SELECT * FROM {name} WHERE key IN ({marks})", part))
    return rows


def _checksum(key: bytes, value: Any) -> int:
    """CRC-32 of a value together with its key; -1 if the value is not a float."""
    return zlib.crc32(key + struct.pack("<d", value)) if isinstance(value, float) else -1
