"""Rows out of files, folders and the hub: `(row number, row)`, with what could not be read."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EXTENSIONS = (".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz")
HELD_OUT_NAMES = ("test", "validation", "valid", "held_out", "heldout", "eval", "dev")

NumberedRow = tuple[int, Any]


class RowProblem(ValueError):
    """One row that cannot be used.

    Attributes:
        row: Its number, from 1 (the line, in text files).
        column: The column at fault, or none if it is the row as a whole.
        reason: What is wrong.
    """

    def __init__(self, row: int, column: str | None, reason: str):
        self.row, self.column, self.reason = row, column, reason
        super().__init__(f"row {row}{f', {column!r}' if column else ''}: {reason}")


def read_rows(source: str | Path, split: str) -> Iterator[NumberedRow]:
    """Rows of a file, folder or hub data set.

    Args:
        source: Path or hub id.
        split: Split of a folder or hub data set.

    Yields:
        Row number and row; the row is a `RowProblem` where it could not be read.

    Raises:
        FileNotFoundError: If there is no such source or split.
        ValueError: If a file as a whole cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
            return _saved_dataset(path, split)
        return _file(_file_of_split(path, split))
    if path.is_file():
        return _file(path)
    name = str(source)
    if name.endswith(EXTENSIONS) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(
            f"{name}: no such file or folder. Give a path that exists, a built-in data set "
            "(reviews, places) or a hub id (owner/name)."
        )
    return _hub(name, split)


def find_split(source: str | Path, exclude: str) -> str | None:
    """Name of the held-out split that a source has beside `exclude`, if any."""
    path = Path(source).expanduser()
    if path.is_dir():
        if (path / "dataset_dict.json").exists():
            names = json.loads((path / "dataset_dict.json").read_text())["splits"]
        else:
            stems = [file.name.split(".")[0] for file in _data_files(path)]
            names = [n for n in HELD_OUT_NAMES if any(stem.startswith(n) for stem in stems)]
    elif path.is_file():
        names = []
    else:
        from datasets import get_dataset_split_names

        names = _from_hub(str(source), lambda: get_dataset_split_names(str(source)))
    return next((n for n in HELD_OUT_NAMES if n in names and n != exclude), None)


def _data_files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_file() and f.name.endswith(EXTENSIONS))


def _file_of_split(folder: Path, split: str) -> Path:
    files = _data_files(folder)
    found = [file for file in files if file.name.startswith(split)]
    if not found and len(files) == 1 and split == "train":
        found = files
    if len(found) != 1:
        names = ", ".join(file.name for file in files) or "no data file"
        problem = "no file" if not found else "more than one file"
        raise FileNotFoundError(
            f"{folder}: {problem} for the split {split!r} among: {names}. "
            f"Name one file {split}.jsonl (or another of {', '.join(EXTENSIONS[:4])}), "
            "or give the file itself."
        )
    return found[0]


def _file(path: Path) -> Iterator[NumberedRow]:
    name = path.name.removesuffix(".gz")
    if not path.name.endswith(EXTENSIONS):
        raise ValueError(
            f"{path}: cannot read files that end in {path.suffix!r}. Use one of "
            f"{', '.join(EXTENSIONS)}."
        )
    if name.endswith(".parquet"):
        return _parquet(path)
    data = _read_bytes(path)
    if not data.strip():
        raise ValueError(f"{path}: it is empty. A data set needs at least one row.")
    # Bytes that are not UTF-8 become lone surrogates, which the row's check finds and names.
    text = data.decode("utf-8-sig", errors="surrogateescape")
    if name.endswith(".jsonl"):
        return _jsonl(text)
    if name.endswith(".csv"):
        return _csv(path, text)
    return _json(path, text)


def _read_bytes(path: Path) -> bytes:
    data = path.read_bytes()
    if not path.name.endswith(".gz"):
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path}: broken gzip file ({error}). Copy or download it again."
        ) from None


def _jsonl(text: str) -> Iterator[NumberedRow]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except ValueError as error:
            yield number, RowProblem(number, None, f"truncated or malformed JSON ({error})")


def _json(path: Path, text: str) -> Iterator[NumberedRow]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"{path}: truncated or malformed JSON ({error}). "
            "Mend the file; one object a line belongs in a file named .jsonl."
        ) from None
    if isinstance(rows, dict) and isinstance(rows.get("data"), list):
        rows = rows["data"]
    if not isinstance(rows, list):
        raise ValueError(
            f"{path}: holds a {type(rows).__name__}, not a list of rows. "
            'Use a list of objects, or {"data": [...]}.'
        )
    return enumerate(rows, start=1)


def _csv(path: Path, text: str) -> Iterator[NumberedRow]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    number = 0
    while True:
        number += 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, RowProblem(number, None, f"malformed CSV ({error})")
            return
        if None in row:
            yield number, RowProblem(number, None, "more fields than the header has columns")
        else:
            yield number, {column: _cell(cell) for column, cell in row.items()}


def _cell(cell: str | None) -> Any:
    """A CSV cell; one that holds a JSON list of messages is read as such."""
    if cell and cell.lstrip().startswith("[{"):
        try:
            return json.loads(cell)
        except ValueError:
            return cell
    return cell


def _parquet(path: Path) -> Iterator[NumberedRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: not a readable parquet file ({error}). Write or download it again."
        ) from None
    return enumerate(table.to_pylist(), start=1)


def _saved_dataset(path: Path, split: str) -> Iterator[NumberedRow]:
    from datasets import DatasetDict, load_from_disk

    saved = load_from_disk(str(path))
    if isinstance(saved, DatasetDict):
        if split not in saved:
            raise FileNotFoundError(
                f"{path}: no split {split!r} among: {', '.join(saved)}. Name one of these."
            )
        saved = saved[split]
    return enumerate(saved, start=1)


def _hub(name: str, split: str) -> Iterator[NumberedRow]:
    from datasets import load_dataset

    return enumerate(_from_hub(name, lambda: load_dataset(name, split=split)), start=1)


def _from_hub(name: str, call):
    """A hub call, its many kinds of failure told as one sentence."""
    from datasets.exceptions import DatasetNotFoundError

    try:
        return call()
    except DatasetNotFoundError:
        raise FileNotFoundError(
            f"{name}: no such file or folder here, and no such data set on the hub. "
            "Built in are reviews and places; otherwise give a path or a hub id (owner/name)."
        ) from None
    except (ConnectionError, OSError) as error:
        raise FileNotFoundError(
            f"{name}: no such file or folder here, and the hub cannot be reached "
            f"({type(error).__name__}). Give a local file, or try again with a connection."
        ) from None
