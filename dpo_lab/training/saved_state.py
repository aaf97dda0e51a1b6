"""What a checkpoint holds of a run: model, optimiser, step, live settings, random state."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError

from dpo_lab.data.quoting import shortened
from dpo_lab.models.processes import FirstFailed, LostProcess
from dpo_lab.models.weights import load_weights, save_model
from dpo_lab.training.learner import Learner
from dpo_lab.training.live_settings import LiveSettings
from dpo_lab.training.optimizer_parts import FOLDER, STEP, read_parts, write_parts

NO_STATE = (
    OSError, EOFError, RuntimeError, UnpicklingError, ValueError, TypeError, LookupError,
    AttributeError,
)  # fmt: skip
"""Exceptions raised when a file that does not hold a trainer's state is loaded as one."""


def save_state(learner: Learner, folder: Path) -> None:
    """Write a checkpoint's files, in all processes; call `learner.check_weights` first.

    Raises:
        OSError: If the files cannot be written.
    """
    processes, policy = learner.processes, learner.job.policy
    state = {
        "step": learner.step,
        "beta": learner.beta,
        "peak": learner.job.live.learning_rate,
        "new_peak": learner.new_peak,
        "random": torch.get_rng_state(),
        "gradient": dict(learner.gradient.remembered),
    }
    try:
        if learner.shards:
            with processes.naming_the_lost():
                save_model(policy, folder)
                parts = learner.optimizer, learner.weights, folder / FOLDER, processes
                state["weight_steps"] = write_parts(*parts)
        else:
            processes.from_first(lambda: save_model(policy, folder))
            state["optimizer"] = learner.optimizer.state_dict()
        processes.from_first(lambda: torch.save(state, folder / "trainer.pt"))
    except (FirstFailed, LostProcess):
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:120]
        raise OSError(
            f"{folder.parent}: a checkpoint of step {learner.step} cannot be written ({reason}). "
            "The one before it is complete; make room, and go on from it with --resume."
        ) from error


def load_state(learner: Learner, folder: Path) -> None:
    """Load a checkpoint, which may have been written on another device or by other processes.

    Raises:
        ValueError: If its weights or its optimiser's state do not fit this run.
    """
    load_weights(learner.job.policy, folder)
    try:
        state = torch.load(folder / "trainer.pt", map_location="cpu", weights_only=True)
        learner.step = state["step"]
        # Earlier versions stored the peak in a scheduler's state, and no pending change.
        peak = state["peak"] if "peak" in state else state["schedule"]["peak"][0]
        learner.job.live = LiveSettings(state["beta"], peak)
        learner.new_peak = state.get("new_peak")
        learner.gradient.remembered.update(state.get("gradient", {}))
        if "weight_steps" in state:
            parts = learner.optimizer, learner.weights, folder / FOLDER
            read_parts(*parts, state["weight_steps"], learner.processes)
        else:
            learner.optimizer.load_state_dict(_own_parts(learner, state["optimizer"]))
        torch.set_rng_state(state["random"])
    except NO_STATE as error:
        reason = shortened(str(error) or type(error).__name__, 120)
        raise ValueError(
            f"{folder / 'trainer.pt'}: holds no state of this run ({reason}). Remove the "
            f"folder {folder.name}, and a resumed run starts again from step 0."
        ) from error


def _own_parts(learner: Learner, state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state, with this process's parts of it if the weights are divided."""
    if learner.shards:
        for values in state["state"].values():
            for key, value in values.items():
                values[key] = value if key == STEP else learner.shards.divided(value)
    return state
