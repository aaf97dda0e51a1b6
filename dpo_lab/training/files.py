"""Crash-safe files: JSON, text and tables that a kill leaves either old or new, never partial."""

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
    """Raise if a folder cannot be written to, before any work is done for it.

    The folder is not created: if it does not exist, its nearest existing parent is tried.

    Raises:
        OSError: If it cannot be written to, or is not a folder.
    """
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise OSError(
            f"{folder}: nothing can be written there ({error.strerror}). Give another folder, "
            "such as --out with one of yours."
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: If the file is not a JSON object.
    """
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__} instead of an object")
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
    """Objects as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_file_name(text: str) -> str:
    """Text as part of a file name: characters special to shells or file systems become `_`."""
    return "".join(char if char.isalnum() or char in "-+._" else "_" for char in text)


def sync(path: Path) -> None:
    """Flush a file or folder to disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Write a table as CSV, or as parquet by the file's ending; a kill leaves it old or new.

    Args:
        rows: At least one; a column missing from a row is left empty there.
        path: The file; its folders are created.

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
