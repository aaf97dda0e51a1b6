"""Which files of a folder are a split, and which split is held out beside another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from dpo_lab.data.readers import EXTENSIONS, extension_of

HELD_OUT_NAMES = ("test", "validation", "valid", "held_out", "heldout", "eval", "dev")

# "train-00000-of-00003", to which a hub adds 16 hexadecimal digits at times.
_SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d+)-of-(?P<count>\d+)(?:-[0-9a-f]{16})?")
_TRAIN = re.compile(r"(?<![a-zA-Z])train(?![a-zA-Z])")
_NOT_ROWS = {"dataset_infos.json"}


def find_held_out(split: str, names: Iterable[str]) -> str | None:
    """The held-out split beside a training split, among the names of all, if there is one."""
    names = set(names)
    return next((name for name in _candidates(split) if name in names), None)


def find_held_out_files(folder: Path, split: str) -> str | None:
    """The same among the files of a folder, where those of the training split are.

    Raises:
        FileNotFoundError: If a shard of it is missing.
    """
    beside = {file.parent for file in files_of_split(folder, split)}
    # Beside `train_prefs`, a file `test_sft` is no `test`.
    for loosely in (False,) if _siblings(split) else (False, True):
        for name in _candidates(split):
            found = files_of_split(folder, name, loosely=loosely)
            if found and (not beside or found[0].parent in beside):
                return name
    return None


def _candidates(split: str) -> list[str]:
    """Beside `train_prefs`: `test_prefs`, `validation_prefs` and so on, then `test` and so on."""
    names = dict.fromkeys((*_siblings(split), *HELD_OUT_NAMES))
    return [name for name in names if name != split]


def _siblings(split: str) -> list[str]:
    name = split.partition("[")[0]
    if name == "train" or not _TRAIN.search(name):
        return []
    return [_TRAIN.sub(held_out, name) for held_out in HELD_OUT_NAMES]


def files_of_split(folder: Path, split: str, *, loosely: bool = True) -> list[Path]:
    """The files of a split in a folder, or else in its `data` folder, as in a clone from the hub.

    Files named like the split come first; then its shards (`train-00000-of-00003`); then, if
    `loosely`, files whose name begins with it (`train-1`).

    Raises:
        FileNotFoundError: If a shard is missing, or there twice.
    """
    begins = re.compile(rf"{re.escape(split)}(?![a-zA-Z])")
    for files in map(_data_files, (folder, folder / "data")):
        found = [file for file in files if _stem(file) == split]
        found = found or [file for file in files if _split_of_shard(file) == split]
        if not found and loosely:
            found = [file for file in files if begins.match(file.name)]
        if found:
            return _in_order(found) if _one_split(found) else found
    return []


def require_files_of_split(folder: Path, split: str) -> list[Path]:
    """The files that hold a split: one, or all its shards in order.

    A folder with a single file has it as its training split, whatever its name.

    Raises:
        FileNotFoundError: If there is none, or several that are no shards of one split.
    """
    files = _data_files(folder) or _data_files(folder / "data")
    found = files_of_split(folder, split)
    held_out = any(files_of_split(folder, name) for name in HELD_OUT_NAMES)
    if not found and len(files) == 1 and split == "train" and not held_out:
        found = files
    if len(found) == 1 or (found and _one_split(found)):
        return found
    names = ", ".join(file.name for file in files) or f"no data file{_folders_with_data(folder)}"
    raise FileNotFoundError(
        f"{folder}: {'more than one' if found else 'no'} file for the split {split!r} among: "
        f"{names}. Name one file {split}.jsonl (or another of {', '.join(EXTENSIONS[:4])}) or its "
        f"shards {split}-00000-of-00002 and so on, or give the file itself."
    )


def _folders_with_data(folder: Path) -> str:
    """Which folders of a folder could be given instead, as where a clone has several data sets."""
    names = sorted(
        place.name for place in folder.iterdir() if place.is_dir() and _data_files(place)
    )
    return f", but some in its folders {', '.join(names)}: give one of these" if names else ""


def _in_order(shards: list[Path]) -> list[Path]:
    """All shards of a split in order; numbers may begin at 0 or 1."""
    matches = [_SHARD.fullmatch(_stem(file)) for file in shards]
    numbers = [int(shard["number"]) for shard in matches]
    counts = sorted({int(shard["count"]) for shard in matches})
    what = _wrong_with_shards(numbers, counts)
    if what:
        raise FileNotFoundError(
            f"{shards[0].parent}: {what} of the split {matches[0]['name']!r}, which would train on "
            "a part or twice on one. Download it whole into a folder of its own."
        )
    return [file for _, file in sorted(zip(numbers, shards, strict=True))]


def _wrong_with_shards(numbers: Sequence[int], counts: Sequence[int]) -> str:
    if len(counts) > 1:
        return f"shards of {counts[0]} and of {counts[-1]} files"
    (count,) = counts
    first = 1 if 0 not in numbers and count in numbers else 0
    missing = sorted({*range(first, first + count)} - {*numbers})
    if missing:
        return f"no shard {missing[0]:05}-of-{count:05} ({len(missing)} missing)"
    return f"{len(numbers)} files for {count} shards" if len(numbers) != count else ""


def _one_split(files: list[Path]) -> bool:
    names = set(map(_split_of_shard, files))
    return len(names) == 1 and None not in names


def _split_of_shard(file: Path) -> str | None:
    """Of which split a file is a shard, if it is one."""
    shard = _SHARD.fullmatch(_stem(file))
    return shard and shard["name"]


def _stem(file: Path) -> str:
    return file.name[: len(file.name) - len(extension_of(file))]


def _data_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (file for file in folder.iterdir() if file.is_file() and extension_of(file))
    return sorted(file for file in files if file.name not in _NOT_ROWS)
