"""How it learns: configuration, loop, callbacks, runs."""

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
