"""Rows out of files, folders and the hub: `(row number, row)`, with what could not be read."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dpo_lab.data.hub import hub_rows, hub_splits
from dpo_lab.data.problems import RowProblem

EXTENSIONS = (".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz")
HELD_OUT_NAMES = ("test", "validation", "valid", "held_out", "heldout", "eval", "dev")

NumberedRow = tuple[int, Any]

# Bytes that are not UTF-8 become lone surrogates, which the row's check finds and names.
_UNDECODABLE = "\udcff"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_MESSAGES = re.compile(r"""\s*\[\s*\{\s*["'](?:role|content)["']\s*:""")


def read_rows(source: str | Path, split: str) -> Iterator[NumberedRow]:
    """Rows of a file, folder or hub data set.

    Args:
        source: Path or hub id.
        split: Split of a folder or hub data set.

    Yields:
        Row number and row; a row, or a cell of it, is a `RowProblem` where it could not be read.

    Raises:
        FileNotFoundError: If there is no such source or split.
        ValueError: If a file as a whole cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if _is_saved_dataset(path):
            return _saved_dataset(path, split)
        return _file(_file_of_split(path, split))
    if path.is_file():
        return _file(path)
    name = str(source)
    _check_hub_id(name)
    return enumerate(hub_rows(name, split), start=1)


def find_split(source: str | Path, exclude: str) -> str | None:
    """Name of the held-out split that a source has beside `exclude`, if any.

    Args:
        source: Path or hub id.
        exclude: The split that is trained on.

    Raises:
        FileNotFoundError: If there is no such source.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return None
    if not path.is_dir():
        _check_hub_id(str(source))
        names = hub_splits(str(source))
    elif _is_saved_dataset(path):
        index = path / "dataset_dict.json"
        names = json.loads(index.read_text("utf-8"))["splits"] if index.exists() else []
    else:
        names = [name for name in HELD_OUT_NAMES if _files_of_split(path, name)]
    return next((name for name in HELD_OUT_NAMES if name in names and name != exclude), None)


def _check_hub_id(name: str) -> None:
    """Refuse what can only be a misspelt path, before the hub is asked for it."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or _extension(Path(name)):
        raise FileNotFoundError(
            f"{name}: no such file or folder. Give a path that exists, a built-in data set "
            "(reviews, places) or a hub id (owner/name)."
        )


def _extension(path: Path) -> str:
    name = path.name.lower()
    return next((extension for extension in EXTENSIONS if name.endswith(extension)), "")


def _is_saved_dataset(folder: Path) -> bool:
    return (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists()


def _data_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and _extension(file))


def _files_of_split(folder: Path, split: str) -> list[Path]:
    """Files called like a split, or else those whose name begins with it (`train-00000`)."""
    files = _data_files(folder)
    exact = [file for file in files if file.name.split(".")[0] == split]
    begins = re.compile(rf"{re.escape(split)}(?![a-zA-Z])")
    return exact or [file for file in files if begins.match(file.name)]


def _file_of_split(folder: Path, split: str) -> Path:
    files = _data_files(folder)
    found = _files_of_split(folder, split)
    held_out = any(_files_of_split(folder, name) for name in HELD_OUT_NAMES)
    if not found and len(files) == 1 and split == "train" and not held_out:
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
    extension = _extension(path).removesuffix(".gz")
    if not extension:
        raise ValueError(
            f"{path}: unknown kind of file. Its name must end in one of {', '.join(EXTENSIONS)}: "
            "convert it, or mend its name."
        )
    if extension == ".parquet":
        return enumerate(_parquet(path), start=1)
    data = _read_bytes(path)
    if data.startswith(_UTF16):
        raise ValueError(f"{path}: its text is UTF-16, and only UTF-8 is read. Save it as UTF-8.")
    text = data.decode("utf-8-sig", errors="surrogateescape")
    if not text.strip():
        raise ValueError(f"{path}: it is empty. A data set needs at least one row; add some.")
    if extension == ".jsonl":
        return _jsonl(text)
    if extension == ".csv":
        return iter(_csv(path, text))
    return enumerate(_json(path, text), start=1)


def _read_bytes(path: Path) -> bytes:
    data = path.read_bytes()
    if not path.name.lower().endswith(".gz"):
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
        except (ValueError, RecursionError) as error:
            yield number, RowProblem(number, None, "truncated or malformed JSON", str(error))


def _json(path: Path, text: str) -> list:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
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
    return rows


def _csv(path: Path, text: str) -> list[NumberedRow]:
    # The module's own limit for a field, 131072 characters, is less than a long conversation.
    limit = csv.field_size_limit(len(text) + 1)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        _check_header(path, reader)
        return list(_csv_rows(reader))
    finally:
        csv.field_size_limit(limit)


def _check_header(path: Path, reader: csv.DictReader) -> None:
    try:
        names = [name for name in reader.fieldnames or () if name]
    except csv.Error as error:
        raise ValueError(
            f"{path}: its header is malformed CSV ({error}). Name the columns in the first line."
        ) from None
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(
            f"{path}: its header names {twice[0]!r} twice, so one would hide the other. Rename one."
        )


def _csv_rows(reader: csv.DictReader) -> Iterator[NumberedRow]:
    number = 0
    while True:
        number += 1
        start = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # The reader takes up again at the next line.
            yield number, RowProblem(number, None, "malformed CSV", f"from line {start}: {error}")
            continue
        if None in row:
            yield number, RowProblem(number, None, "more fields than the header has columns")
        else:
            yield number, {column: _cell(number, column, cell) for column, cell in row.items()}


def _cell(number: int, column: str, cell: str | None) -> Any:
    """A CSV cell; one that holds a JSON list of messages is read as such."""
    if not cell or not _MESSAGES.match(cell):
        return cell
    try:
        return json.loads(cell)
    except ValueError as error:
        return RowProblem(number, column, "truncated or malformed JSON", str(error))


def _parquet(path: Path) -> Iterable[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, partitioning=None)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: not a readable parquet file ({error}). Write or download it again."
        ) from None
    return _arrow_rows(table)


def _arrow_rows(table: Any) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=1000):
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError:
            rows = [
                {name: _arrow_cell(batch[name][index]) for name in batch.schema.names}
                for index in range(batch.num_rows)
            ]
        yield from rows


def _arrow_cell(cell: Any) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return _UNDECODABLE


def _saved_dataset(path: Path, split: str) -> Iterator[NumberedRow]:
    from datasets import DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path}: not a readable folder of save_to_disk ({error}). Save or copy it again."
        ) from None
    if isinstance(saved, DatasetDict):
        if split not in saved:
            raise FileNotFoundError(
                f"{path}: no split {split!r} among: {', '.join(saved)}. Name one of these."
            )
        saved = saved[split]
    return enumerate(saved, start=1)
