"""Checkpoints of a run: replaced atomically, so a kill leaves a complete one; checked on resume."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpo_lab.models.checksums import check_files, file_checksum, read_checksums, write_checksums
from dpo_lab.training.files import sync
from dpo_lab.training.run_lines import LINE_FILES, WAY_OUT, check_lines, line_checksums

logger = logging.getLogger(__name__)

FromFirst = Callable[[Callable[[], None]], None]
SETTINGS = ("config.json", "environment.json")


def find_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, if any; completes a replacement that a kill interrupted."""
    current = folder / "checkpoint"
    if not current.exists():
        # Killed between the two renames: the new checkpoint was complete before the first one.
        for name in ("checkpoint.next", "checkpoint.previous"):
            if (folder / "checkpoint.previous").exists() and (folder / name).exists():
                os.rename(folder / name, current)
                break
    return current if current.exists() else None


def replace_checkpoint(
    folder: Path,
    write: Callable[[Path], None],
    from_first: FromFirst = lambda work: work(),
    **facts: float,
) -> None:
    """Replace the checkpoint; one complete checkpoint is on disk at all times.

    Args:
        folder: The run's folder.
        write: Writes the files of a checkpoint into the folder that it gets.
        from_first: Calls a function in the first of the run's processes, which all call this and
            `write`; by default this process is alone.
        **facts: Values to store with its checksums.
    """
    fresh = folder / "checkpoint.next"
    from_first(lambda: _make_way(folder))
    try:
        write(fresh)
        from_first(lambda: _put_in_place(folder, facts))
    except Exception:
        shutil.rmtree(fresh, ignore_errors=True)  # make room on a full disk
        raise


def _make_way(folder: Path) -> None:
    find_checkpoint(folder)  # repairs an interrupted replacement first
    for name in ("checkpoint.next", "checkpoint.previous"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "checkpoint.next").mkdir()


def _put_in_place(folder: Path, facts: dict[str, float]) -> None:
    """Seal the files of the new checkpoint, and swap it for the one before."""
    current, fresh, previous = (
        folder / name for name in ("checkpoint", "checkpoint.next", "checkpoint.previous")
    )
    settings = {p.name: file_checksum(p) for p in map(folder.joinpath, SETTINGS) if p.exists()}
    lines = {name: line_checksums(folder / name) for name in LINE_FILES}
    write_checksums(fresh, settings=settings, lines=lines, **facts)
    for file in [*fresh.rglob("*"), fresh]:
        sync(file)
    for name in LINE_FILES:
        if (folder / name).exists():
            sync(folder / name)
    if current.exists():
        os.rename(current, previous)
    os.rename(fresh, current)
    sync(folder)
    shutil.rmtree(previous, ignore_errors=True)


def noted_at_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Checksums and facts of the checkpoint, or of the one that is being replaced right now.

    Raises:
        ValueError: If the checksum file itself was changed.
    """
    for name in ("checkpoint", "checkpoint.previous"):
        if (folder / name).exists():
            try:
                return read_checksums(folder / name)
            except ValueError as error:
                raise ValueError(f"{error}. {WAY_OUT}") from None
    return None


def check_folder(folder: Path) -> bool:
    """Raise if a run's folder was changed since its checkpoint was written.

    Returns:
        Whether it could be compared; checkpoints of earlier versions have no checksums, which a
        warning says.

    Raises:
        ValueError: If settings, weights, optimiser state or a line differ from what was written.
    """
    noted = noted_at_checkpoint(folder)
    if noted is None:
        logger.warning(
            "%s: its checkpoint carries no checksums (an earlier version wrote it), so changes to "
            "it cannot be detected. The next checkpoint will have them.",
            folder,
        )
        return False
    try:
        for name, checksum in noted["settings"].items():
            path = folder / name
            if not path.exists() or file_checksum(path) != checksum:
                raise ValueError(f"{path}: is not what was written")
        check_files(folder / "checkpoint", lambda name: name.endswith((".safetensors", ".pt")))
    except ValueError as error:
        raise ValueError(f"{error}. {WAY_OUT}") from None
    for name in LINE_FILES:
        check_lines(folder / name, noted["lines"][name])
    return True
