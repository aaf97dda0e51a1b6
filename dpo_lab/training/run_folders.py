"""Where runs lie: the folder of all of them, a new one for the next."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_lab.training.files import as_file_name, check_writable
from dpo_lab.training.runs import Run

if TYPE_CHECKING:
    from dpo_lab.training.config import TrainConfig


def list_runs(folder: str | Path) -> list[Run]:
    """The runs in a folder, oldest first."""
    found = [Run(path.parent) for path in Path(folder).glob("*/config.json")]
    return sorted(found, key=lambda run: (run.path / "config.json").stat().st_mtime)


def runs_folder() -> Path:
    """Where runs lie by default: `$DPO_LAB_RUNS`, or `runs` at the root of the project.

    The project is the nearest folder upwards that holds `.git` or `pyproject.toml`, so that a
    command at its root and a notebook below it find each other's runs. Outside of a project, and in
    one that is the home folder or holds it, it is `runs` in the current folder.
    """
    if given := os.environ.get("DPO_LAB_RUNS"):
        return Path(given)
    here, home = Path.cwd(), Path.home()
    for folder in (here, *here.parents):
        if folder == home or folder in home.parents:
            break
        if any((folder / mark).exists() for mark in (".git", "pyproject.toml")):
            return Path(os.path.relpath(folder / "runs"))
    return Path("runs")


def new_folder(config: TrainConfig, root: str | Path | None = None) -> Path:
    """A new folder under a root, named after what the run does; no other process gets it.

    Args:
        config: Of the run.
        root: By default `runs_folder()`.

    Returns:
        The folder, made and empty; `give_back` it if no run is begun there.

    Raises:
        OSError: If it cannot be made.
    """
    root = runs_folder() if root is None else Path(root)
    check_writable(root)
    model = Path(config.model).name
    data = Path(config.data).name.split(".")[0]
    name = as_file_name(f"{model}-{data}-{config.loss}-beta{config.beta:g}")
    number = 1
    while True:
        folder = root / f"{name}-{number:03}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def give_back(folder: Path) -> None:
    """Remove a folder of `new_folder` if no run was begun in it."""
    with contextlib.suppress(OSError):  # of one that is not empty
        folder.rmdir()
