"""The default folder of runs, its list of runs, and unique folders for new runs."""

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
    """The runs in a folder, oldest first; a model has a config.json too, and is none."""
    found = [path.parent for path in Path(folder).glob("*/config.json")]
    runs = [Run(path) for path in found if not (path / "model.safetensors").exists()]
    return sorted(runs, key=lambda run: (run.path / "config.json").stat().st_mtime)


def runs_folder() -> Path:
    """The default folder of runs: `$DPO_LAB_RUNS`, or `runs` at the root of the project.

    The root is the nearest folder upwards with `.git` or `pyproject.toml`, so that a command at the
    root and a notebook below it find each other's runs. Outside a project, or if its root is the
    home folder or contains it, it is `runs` in the current folder.
    """
    if from_environment := os.environ.get("DPO_LAB_RUNS"):
        return Path(from_environment)
    here, home = Path.cwd(), Path.home()
    for folder in (here, *here.parents):
        if folder == home or folder in home.parents:
            break
        if any((folder / marker).exists() for marker in (".git", "pyproject.toml")):
            return Path(os.path.relpath(folder / "runs"))
    return Path("runs")


def new_folder(config: TrainConfig, root: str | Path | None = None) -> Path:
    """Create a new folder under a root, named after the run's settings; no other process gets it.

    Args:
        config: Configuration of the run.
        root: By default `runs_folder()`.

    Returns:
        The new, empty folder; call `give_back` if no run is started there.

    Raises:
        OSError: If it cannot be created.
    """
    root = runs_folder() if root is None else Path(root)
    check_writable(root)
    model = Path(config.model).name
    data = Path(config.data).name.split(".")[0]
    how = config.loss if config.method == "dpo" else config.method
    name = as_file_name(f"{model}-{data}-{how}-beta{config.beta:g}")
    number = 1
    while True:
        folder = root / f"{name}-{number:03}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def give_back(folder: Path) -> None:
    """Remove a folder of `new_folder` if no run was started in it."""
    with contextlib.suppress(OSError):  # raised if it is not empty
        folder.rmdir()
