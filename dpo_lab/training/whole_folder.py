"""A folder that appears when it is whole: written beside its place, renamed when all is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dpo_lab.training.files import check_writable, sync
from dpo_lab.training.runs import Run

MODEL_FILES = ("adapter_config.json", "model.safetensors", "model.safetensors.index.json")
"""One of these is in every folder that holds a model, and in nothing else."""


def check_place(folder: Path, overwrite: bool = False) -> None:
    """Raise if a model's folder cannot be put in a place.

    Args:
        folder: The place.
        overwrite: Whether a model that lies there may be replaced; other files never are.

    Raises:
        FileExistsError: If something lies there that must stay.
        OSError: If nothing can be written there.
    """
    if folder.is_file():
        raise FileExistsError(f"{folder}: is a file. Give a folder that is new or empty.")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if names:
        model = any(name in MODEL_FILES for name in names)
        if Run(folder / "..").exists and folder.name.startswith("checkpoint"):
            raise FileExistsError(f"{folder}: is the checkpoint of a run. Give another folder.")
        if not model:
            raise FileExistsError(
                f"{folder}: holds no model but other files, such as {names[0]}, which are never "
                "replaced. Give a folder that is new or empty."
            )
        if not overwrite:
            raise FileExistsError(
                f"{folder}: holds a model already. Give another folder, or --overwrite "
                "(overwrite=True) to replace it."
            )
    check_writable(folder.parent)


@contextmanager
def written_whole(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """A scratch folder to write into, which takes its place when the block ends without an error.

    A kill leaves the place as it was; the next call removes what the killed one left.

    Args:
        folder: The place; its parents are created.
        overwrite: As for `check_place`.

    Raises:
        FileExistsError: As `check_place`, or if another process writes the same folder.
    """
    folder = folder.absolute()
    check_place(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.with_name(f".{folder.name}.partial")
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise FileExistsError(
            f"{folder}: another process writes this folder. Wait for it, or give another one."
        ) from None
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # left by one that was killed
        scratch.mkdir()
        yield scratch
        for file in [*scratch.rglob("*"), scratch]:
            sync(file)
        _swap(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _swap(scratch: Path, folder: Path) -> None:
    before = folder.with_name(f".{folder.name}.before")
    shutil.rmtree(before, ignore_errors=True)
    if folder.exists():
        os.rename(folder, before)
    os.rename(scratch, folder)
    sync(folder.parent)
    shutil.rmtree(before, ignore_errors=True)
