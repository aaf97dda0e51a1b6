"""The folders of a trainer: `output_dir` with its runs and the checkpoints that were asked for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from transformers import TrainerState
from transformers.trainer_utils import rotate_checkpoints

from dpo_lab.training.runs import Run

STATE = "trainer_state.json"


def runs_in(output: Path) -> list[Run]:
    """The runs of a trainer's folder: `run`, `run-2`, ..., oldest first."""
    numbers = range(1, 1 + len(list(output.glob("run*"))))
    runs = [Run(output / ("run" if n == 1 else f"run-{n}")) for n in numbers]
    return [run for run in runs if run.exists]


def new_run(output: Path) -> Run:
    """A run in a new folder; earlier ones are kept."""
    number = len(runs_in(output)) + 1
    return Run(output / ("run" if number == 1 else f"run-{number}"))


def run_to_resume(output: Path, asked: bool | str | os.PathLike) -> Run:
    """The newest run, put back to the checkpoint that is asked for.

    Args:
        output: The trainer's folder.
        asked: True for the newest checkpoint, or the folder of one.

    Raises:
        ValueError: If there is no run, or no such checkpoint.
    """
    runs = runs_in(output)
    if not runs:
        raise ValueError(
            f"resume_from_checkpoint={asked!r}: {output} holds no run. Call train() without it to "
            "begin one."
        )
    run = runs[-1]
    if asked is True:
        return run
    folder = Path(asked)
    if not (folder / "trainer.pt").exists():
        raise ValueError(
            f"resume_from_checkpoint={str(asked)!r}: no checkpoint of the lab. Give True for the "
            f"newest, or one of the folders checkpoint-... in {output}."
        )
    if folder.resolve() != (run.path / "checkpoint").resolve():
        _put_back(run, folder)
    return run


def _put_back(run: Run, folder: Path) -> None:
    """Make a checkpoint the run's own; at every moment there is a complete one."""
    fresh, previous = (run.path / f"checkpoint.{name}" for name in ("next", "previous"))
    current = run.checkpoint
    for leftover in (fresh, previous):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(folder, fresh, ignore=shutil.ignore_patterns(STATE))
    if current is not None:
        os.rename(current, previous)
    os.rename(fresh, run.path / "checkpoint")
    shutil.rmtree(previous, ignore_errors=True)


def keep_checkpoint(run: Run, output: Path, state: TrainerState, limit: int | None) -> Path:
    """Keep the run's checkpoint as `checkpoint-STEP`, which the next one does not replace.

    Args:
        run: The run.
        output: The trainer's folder.
        state: The trainer's state, kept beside the weights.
        limit: Most checkpoints to keep; the best one, and the newest, always are.
    """
    folder = output / f"checkpoint-{state.global_step}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run.path / "checkpoint", folder, copy_function=_link)
    if state.best_global_step:
        best = output / f"checkpoint-{state.best_global_step}"
        state.best_model_checkpoint = str(best) if best.exists() else state.best_model_checkpoint
    state.save_to_json(str(folder / STATE))
    rotate_checkpoints(str(output), limit, state.best_model_checkpoint)
    return folder


def _link(source: str, target: str) -> None:
    """The same file under another name, or a copy where the disk has no such links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def history_until(path: Path, step: int) -> TrainerState | None:
    """A trainer's state as it was after a step, if it was saved then or later."""
    if not path.exists():
        return None
    state = TrainerState.load_from_json(str(path))
    if state.global_step < step:
        return None
    state.log_history = [logs for logs in state.log_history if logs["step"] <= step]
    state.global_step = step
    return state
