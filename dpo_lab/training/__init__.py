"""How it learns: configuration, loop, callbacks, runs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpo_lab.training.callbacks import Callback
    from dpo_lab.training.config import TrainConfig
    from dpo_lab.training.control import RunControl
    from dpo_lab.training.loop import train
    from dpo_lab.training.outcome import measure_outcome
    from dpo_lab.training.records import SampleRecord, StepRecord
    from dpo_lab.training.runs import Run
    from dpo_lab.training.setup import Job, prepare

__all__ = [
    "Callback",
    "Job",
    "Run",
    "RunControl",
    "SampleRecord",
    "StepRecord",
    "TrainConfig",
    "measure_outcome",
    "prepare",
    "train",
]

_PLACES = {
    "Callback": "callbacks",
    "Job": "setup",
    "Run": "runs",
    "RunControl": "control",
    "SampleRecord": "records",
    "StepRecord": "records",
    "TrainConfig": "config",
    "measure_outcome": "outcome",
    "prepare": "setup",
    "train": "loop",
}
"""Module of each name: it is imported when the name is asked for."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
