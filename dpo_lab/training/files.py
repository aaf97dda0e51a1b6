"""Files that a kill leaves whole: JSON in one go, a line at a time, and tables."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def check_writable(folder: Path) -> None:
    """Refuse a folder in which nothing can be written, before work is done for it.

    Nothing is made for it: of a folder that is not there yet, the nearest that is there is tried.

    Raises:
        OSError: If it cannot be written to, or is no folder.
    """
    there = next(one for one in (folder, *folder.parents) if one.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(
            f"{folder}: nothing can be written there ({error.strerror}). Give another folder, "
            "such as --out with one of yours."
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file.

    Raises:
        ValueError: If it cannot be read as such.
    """
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__} in place of an object")
    except ValueError as error:
        raise ValueError(
            f"{path}: broken ({error}). It was changed by hand or by a fault."
        ) from None
    return value


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a kill leaves the old file or the new one."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file so that a kill leaves the old file or the new one."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a kill leaves the old file or the new one."""
    scratch = path.with_name(path.name + ".next")
    try:
        scratch.write_bytes(data)
        sync(scratch)
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise OSError(f"{path}: cannot be written ({error.strerror}).") from error


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Objects as text, a line each."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_file_name(text: str) -> str:
    """A text as part of a file's name: signs that a shell or a disk may mind become `_`."""
    return "".join(sign if sign.isalnum() or sign in "-+._" else "_" for sign in text)


def sync(path: Path) -> None:
    """Have the system put a file or folder on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Write a table as CSV, or as parquet if the file is so named; a kill leaves it old or new.

    Args:
        rows: At least one; a column that a row has not got stays empty there.
        path: Where to; folders are made.

    Returns:
        `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        whole = [{column: row.get(column) for column in columns} for row in rows]
        table = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(whole), table)
        write_bytes(path, table.getvalue())
        return path
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
    return path
