"""The commands that train: `train`, also to resume, and `demo`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from dpo_lab.cli.arguments import SAID, Flag
from dpo_lab.cli.output import new_console
from dpo_lab.cli.settings import Settings, given
from dpo_lab.data.template_files import template_text
from dpo_lab.models.model_settings import Strategy
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.files import read_json
from dpo_lab.training.live_settings import LIVE
from dpo_lab.training.run_folders import give_back, new_folder
from dpo_lab.training.runs import Run

OUT = "Folder of the run; by default a new one in $DPO_LAB_RUNS, or in runs/ at the project's root."
Out = Annotated[Path | None, tyro.conf.arg(help=OUT, help_behavior_hint="")]


@dataclass(frozen=True)
class Train:
    """Train a policy on preference pairs; every run is a folder that a kill leaves usable.

    Examples:
      dpo-lab train --model smollm2 --data places
      dpo-lab train --model Qwen/Qwen3-0.6B --data pairs.jsonl --lora-rank 16 --out runs/mine
      dpo-lab train --resume --out runs/mine
      dpo-lab train --model Qwen/Qwen3-0.6B --data pairs.jsonl --processes 8
    """

    settings: Settings
    out: Out = None
    config: Annotated[Path | None, SAID] = None
    """A file of settings, such as a run's config.json, that the options here are added to."""
    processes: int = 1
    """Processes on this machine that divide the pairs of each step, such as one a GPU."""
    strategy: Strategy = "ddp"
    """What processes divide: with ddp the pairs of a step, with fsdp the weights as well."""
    resume: Flag = False
    """Go on with the run in --out or begin it; of its settings only --beta and --lr may change."""
    report_to: Annotated[tuple[str, ...], SAID] = ()
    """Trackers that get every step and evaluation, with KL: tensorboard (files in runs/ of the
    run's folder), wandb, trackio, mlflow and others that transformers knows; none by default."""

    def __call__(self) -> None:
        """Train, and say what changed."""
        asked = given(self.settings)
        if self.config is not None:
            asked = _settings_in(self.config) | asked
        if self.resume and self.out is None:
            raise ValueError("--resume: which run? Name its folder with --out.")
        if self.resume and Run(self.out).exists:
            config, changes = _resumed(Run(self.out), asked)
        else:
            config, changes = TrainConfig(**asked), {}
        if self.processes < 1:
            raise ValueError(f"--processes {self.processes}: must be at least 1.")
        if self.processes > 1:
            _train_in(self.processes, config, self.out)
        else:
            _train(config, self.out, self.resume, changes, self.strategy, self.report_to)


@dataclass(frozen=True)
class Demo:
    """Train on built-in data and show what changed: micro on reviews in seconds."""

    model: str = "micro"
    """micro, smollm2, a folder or a hub id."""
    data: Annotated[str | None, SAID] = None
    """reviews or places; by default the one that suits the model."""
    beta: Annotated[float | None, SAID] = None
    """Larger keeps the policy closer to the reference; by default 0.3 for micro, which at
    0.1 ends with the same answer to everything, and 0.1 for others."""
    steps: Annotated[int | None, SAID] = None
    """Optimiser steps; by default 300 for micro, 25 (400 pairs) for others."""
    out: Out = None

    def __call__(self) -> None:
        """Train, and say what changed."""
        values: dict[str, Any] = {"data": "places", "beta": 0.1, "steps": 25}
        if self.model == "micro":
            values = {"data": "reviews", "beta": 0.3, "steps": 300}
        asked = {name: getattr(self, name) for name in values}
        values |= {name: value for name, value in asked.items() if value is not None}
        _train(TrainConfig(model=self.model, **values), self.out, resume=False, changes={})


def _settings_in(file: Path) -> dict[str, Any]:
    """The settings in a file.

    Raises:
        ValueError: If the file is not there, or holds no settings.
    """
    if not file.exists():
        raise ValueError(f"--config {file}: no such file.")
    try:
        values = TrainConfig.from_dict(read_json(file)).as_dict()
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    del values["trust_remote_code"]  # no file may say that code may run
    return values


def _resumed(run: Run, asked: Mapping[str, Any]) -> tuple[TrainConfig, dict[str, float]]:
    """A run's own configuration, and what its beta and learning rate are to be from here on."""
    saved, changes = run.config, {}
    now = saved.as_dict() | run.live.as_dict()
    for name, value in asked.items():
        if name == "chat_template":  # a run keeps the text, which is compared
            value = template_text(value)
        if name == "trust_remote_code":
            # Whether a model's code may run is no setting of the run, but of who types it.
            saved = replace(saved, trust_remote_code=value)
        elif value != now[name] and name not in LIVE:
            raise ValueError(
                f"--{name.replace('_', '-')} {value}: this run has {now[name]}, and a "
                "resumed run keeps its settings but beta and the learning rate. Leave it out, or "
                "begin another run."
            )
        elif value != now[name]:
            changes[name] = value
    return saved, changes


def _train(
    config: TrainConfig,
    out: Path | None,
    resume: bool,
    changes: dict[str, float],
    strategy: Strategy = "ddp",
    report_to: Sequence[str] = (),
) -> None:
    from dpo_lab.cli.jobs import train_and_report

    how = {"resume": resume, "changes": changes, "strategy": strategy, "report_to": report_to}
    train_and_report(config, out, console=new_console(), **how)


def _train_in(processes: int, config: TrainConfig, out: Path | None) -> None:
    """The same command in several processes, all with one folder."""
    from dpo_lab.cli.launch import launch

    if "RANK" in os.environ:
        raise ValueError(
            "--processes: a launcher such as torchrun has started this process already."
        )
    arguments = sys.argv[1:]
    for at, word in enumerate(arguments):
        if word == "--processes":
            del arguments[at : at + 2]
            break
        if word.startswith("--processes="):
            del arguments[at]
            break
    folder = out or new_folder(config)
    try:
        launch(processes, arguments if out else [*arguments, "--out", str(folder)], folder)
    finally:
        if out is None:
            give_back(folder)
