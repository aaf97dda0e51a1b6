"""Rows out of one file: JSON lines, JSON, CSV, each also gzipped, and parquet."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from dpo_lab.data.problems import MALFORMED_JSON, RowProblem

EXTENSIONS = (".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz")
MAX_GZ_GB = 4.0
"""By default, a .gz file may unpack to so many GB (1e9 bytes); a few kB can hold far more."""

# Bytes that are not UTF-8 become lone surrogates, which the row's check finds and names.
_UNDECODABLE = "\udcff"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_CHUNK = 1 << 20


class Row(NamedTuple):
    """One row of a source.

    Attributes:
        number: From 1; in `.jsonl` files, the line.
        value: What was read: an object with columns, if it is as it should be.
        problem: Why nothing could be read.
    """

    number: int
    value: Any = None
    problem: RowProblem | None = None


def numbered(values: Iterable[Any], after: int = 0) -> Iterator[Row]:
    """Rows of values, numbered from the one after a number."""
    return (Row(number, value) for number, value in enumerate(values, start=after + 1))


def _unread(number: int, reason: str, detail: str = "") -> Row:
    return Row(number, problem=RowProblem(number, None, reason, detail))


def extension_of(path: Path) -> str:
    """The ending by which a file's kind is known, or nothing."""
    name = path.name.lower()
    return next((extension for extension in EXTENSIONS if name.endswith(extension)), "")


def read_file(path: Path, max_gz_gb: float = MAX_GZ_GB, after: int = 0) -> Iterator[Row]:
    """Rows of a file, also those that could not be read.

    Args:
        path: The file; its name says of what kind it is.
        max_gz_gb: Most GB (1e9 bytes) that a `.gz` file may unpack to.
        after: Number of the last row before it, where files are numbered through.

    Raises:
        ValueError: If the file as a whole cannot be read.
    """
    extension = extension_of(path).removesuffix(".gz")
    if not extension:
        raise ValueError(
            f"{path}: unknown kind of file. Its name must end in one of {', '.join(EXTENSIONS)}: "
            "convert it, or fix its name."
        )
    _refuse_pointer(path)
    if extension == ".parquet":
        return numbered(_parquet(path), after)
    if extension == ".jsonl":
        _check_text(path, max_gz_gb)
        return _jsonl(_lines(path), after)
    text = _read_text(path, max_gz_gb)
    if extension == ".csv":
        return iter(_csv(path, text, after))
    return _json(path, text, after)


def _refuse_pointer(path: Path) -> None:
    """A clone without Git LFS holds the address of a file in place of its rows."""
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise ValueError(
                f"{path}: a pointer of Git LFS, not the file itself. Run 'git lfs pull' in its "
                "folder, or download the file."
            )


def _read_text(path: Path, max_gz_gb: float) -> str:
    _check_text(path, max_gz_gb)
    with _opened(path) as file:
        return file.read()


def _opened(path: Path) -> TextIO:
    read = gzip.open if _zipped(path) else open
    return read(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="\n")


def _zipped(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _check_text(path: Path, max_gz_gb: float) -> None:
    """Refuse what cannot be read, before any of it is held: this takes a chunk of memory."""
    filled = False
    for number, chunk in enumerate(_chunks(path, max_gz_gb)):
        if number == 0 and chunk.startswith(_UTF16):
            raise ValueError(
                f"{path}: its text is UTF-16, and only UTF-8 is read. Save it as UTF-8."
            )
        filled = filled or bool(chunk.decode("utf-8-sig", errors="replace").strip())
        if filled and not _zipped(path):
            return
    if not filled:
        raise ValueError(f"{path}: it is empty. A data set needs at least one row; add some.")


def _chunks(path: Path, max_gz_gb: float) -> Iterator[bytes]:
    """A file's bytes, unpacked up to the limit; a broken or larger archive is refused."""
    unpacked, zipped = 0, _zipped(path)
    try:
        with gzip.open(path) if zipped else path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                unpacked += len(chunk)
                if zipped and unpacked > max_gz_gb * 1e9:
                    raise ValueError(
                        f"{path}: unpacks to more than max_gz_gb={max_gz_gb:g} GB, from "
                        f"{path.stat().st_size:,} bytes, which would fill the memory. If you trust "
                        "the file, raise the limit: --max-gz-gb, or max_gz_gb=."
                    )
                yield chunk
    except (EOFError, OSError, zlib.error) as error:
        if not zipped:
            raise
        raise ValueError(
            f"{path}: broken gzip file ({error}). Copy or download it again."
        ) from None


def _lines(path: Path) -> Iterator[str]:
    with _opened(path) as file:
        for line in file:
            yield line.removesuffix("\n")


def _jsonl(lines: Iterable[str], after: int) -> Iterator[Row]:
    for number, line in enumerate(lines, start=after + 1):
        if line.strip():
            try:
                yield Row(number, json.loads(line))
            except (ValueError, RecursionError) as error:
                yield _unread(number, MALFORMED_JSON, str(error))


def _json(path: Path, text: str, after: int) -> Iterator[Row]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        if _begins_with_object_line(text):
            return _jsonl(text.split("\n"), after)
        raise ValueError(
            f"{path}: {MALFORMED_JSON} ({error}). "
            "Fix the file; it must be a list of objects, or one object a line."
        ) from None
    if isinstance(rows, dict) and isinstance(rows.get("data"), list):
        rows = rows["data"]
    if isinstance(rows, dict) and "\n" not in text.strip():
        return _jsonl(text.split("\n"), after)
    if not isinstance(rows, list):
        raise ValueError(
            f"{path}: holds a {type(rows).__name__}, not a list of rows. "
            'Use a list of objects, {"data": [...]}, or one object a line.'
        )
    return numbered(rows, after)


def _begins_with_object_line(text: str) -> bool:
    """Whether the first line with text is an object, so that a `.json` file holds JSON lines."""
    try:
        return isinstance(json.loads(text.lstrip().partition("\n")[0]), dict)
    except (ValueError, RecursionError):
        return False


def _csv(path: Path, text: str, after: int) -> list[Row]:
    # The module's own limit for a field, 131072 characters, is less than a long conversation.
    limit = csv.field_size_limit(len(text) + 1)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        return list(_csv_rows(path, reader, _header(path, reader), after + 1))
    finally:
        csv.field_size_limit(limit)


def _header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        header = next(filter(None, reader), [])
    except csv.Error as error:
        raise ValueError(
            f"{path}: its header is malformed CSV ({error}). Name the columns in the first line."
        ) from None
    twice = [name for name in header if name and header.count(name) > 1]
    if twice:
        raise ValueError(
            f"{path}: its header names {twice[0]!r} twice, so one would hide the other. Rename one."
        )
    return header


def _csv_rows(path: Path, reader: Any, header: list[str], number: int) -> Iterator[Row]:
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if reader.line_num > start:  # an open quote takes in what may be any number of rows
                raise ValueError(
                    f"{path}: malformed CSV from line {start} to line {reader.line_num} ({error}), "
                    "so that where rows begin and end in them is not known. Close the quote that "
                    "opens there, and double those within a field."
                ) from None
            # The reader goes on at the next line.
            yield _unread(number, "malformed CSV", f"line {start}: {error}")
        else:
            if not cells:  # an empty line
                continue
            if len(cells) > len(header):
                yield _unread(number, "more fields than the header has columns")
            else:
                yield Row(number, dict(zip_longest(header, cells)))
        number += 1


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None
    return _rows_of_batches(path, file.iter_batches(batch_size=1000))


def _rows_of_batches(path: Path, batches: Iterator[Any]) -> Iterator[dict[str, Any]]:
    import pyarrow

    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (pyarrow.ArrowException, OSError) as error:
            raise _unreadable(path, error) from None
        try:
            yield from batch.to_pylist()
        except UnicodeDecodeError:
            for cells in zip(*batch.columns, strict=True):
                yield dict(zip(batch.schema.names, map(_arrow_cell, cells), strict=True))


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path}: not a readable parquet file ({error}). Write or download it again.")


def _arrow_cell(cell: Any) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return _UNDECODABLE
