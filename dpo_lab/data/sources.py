"""Rows of a source: a built-in data set, a file, a folder, or a data set of the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from dpo_lab.data.builtin import BUILTIN, builtin_path
from dpo_lab.data.hub import hub_rows, hub_splits
from dpo_lab.data.readers import MAX_GZ_GB, Row, extension_of, numbered, read_file
from dpo_lab.data.splits import find_held_out, find_held_out_files, require_files_of_split


def read_rows(source: str | Path, split: str, max_gz_gb: float = MAX_GZ_GB) -> Iterator[Row]:
    """Rows of a source, also those that could not be read; shards are numbered through.

    Args:
        source: Name of a built-in data set, path or hub id.
        split: Split of a folder or hub data set.
        max_gz_gb: Most GB (1e9 bytes) that a `.gz` file may unpack to.

    Raises:
        FileNotFoundError: If there is no such source or split, or a shard of it is missing.
        ValueError: If a file as a whole cannot be read.
    """
    path = _path_of(source)
    if path.is_dir():
        if _is_saved_dataset(path):
            return _saved_dataset(path, split)
        return _shards(require_files_of_split(path, split), max_gz_gb)
    if path.is_file():
        return read_file(path, max_gz_gb)
    name = str(source)
    _check_hub_id(name)
    return numbered(hub_rows(name, split))


def find_split(source: str | Path, exclude: str) -> str | None:
    """Name of the held-out split that a source has beside `exclude`, if any.

    Args:
        source: Name, path or hub id.
        exclude: The split that is trained on; beside `train_prefs`, `test_prefs` comes first.

    Raises:
        FileNotFoundError: If there is no such source.
    """
    path = _path_of(source)
    if path.is_file():
        return None
    if not path.is_dir():
        _check_hub_id(str(source))
        return find_held_out(exclude, hub_splits(str(source)))
    if not _is_saved_dataset(path):
        return find_held_out_files(path, exclude)
    index = path / "dataset_dict.json"
    names = json.loads(index.read_text("utf-8"))["splits"] if index.exists() else []
    return find_held_out(exclude, names)


def _path_of(source: str | Path) -> Path:
    name = str(source)
    return builtin_path(name) if name in BUILTIN else Path(name).expanduser()


def _check_hub_id(name: str) -> None:
    """Refuse what can only be a misspelt path, before the hub is asked for it."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or extension_of(Path(name)):
        raise FileNotFoundError(
            f"{name}: no such file or folder. Give a path that exists, a built-in data set "
            "(reviews, places) or a hub id (owner/name)."
        )


def _is_saved_dataset(folder: Path) -> bool:
    return (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists()


def _shards(files: list[Path], max_gz_gb: float) -> Iterator[Row]:
    """Rows of the shards of a split, numbered as if they were one file."""
    last = 0
    for file in files:
        for row in read_file(file, max_gz_gb, after=last):
            last = row.number
            yield row


def _saved_dataset(path: Path, split: str) -> Iterator[Row]:
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
    return numbered(saved)
