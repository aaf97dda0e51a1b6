"""The commands that train: `train`, also to resume, and `demo`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

import tyro

from dpo_lab.cli.output import new_console, say
from dpo_lab.training.config import TrainConfig


@dataclass(frozen=True)
class Train:
    """Train a policy on preference pairs; every run is a folder that a kill leaves usable."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    """What to train, on what, and how."""
    out: Path | None = None
    """Folder of the run; by default a new one under runs/."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out, with its own settings; begin one if there is none."""

    def __call__(self) -> None:
        """Train, and say what changed."""
        _train(self.config, self.out, self.resume)


@dataclass(frozen=True)
class Demo:
    """Train on built-in data and show what changed: micro on reviews in seconds."""

    model: str = "micro"
    """micro, smollm2, a folder or a hub id."""
    data: str | None = None
    """reviews or places; by default the one that suits the model."""
    beta: float | None = None
    """Larger keeps the policy closer to the reference; by default 0.3 for micro, which at
    0.1 ends with the same answer to everything, and 0.1 for others."""
    steps: int | None = None
    """Optimiser steps; by default 300 for micro, 25 (400 pairs) for others."""
    out: Path | None = None
    """Folder of the run; by default a new one under runs/."""

    def __call__(self) -> None:
        """Train, and say what changed."""
        micro = self.model == "micro"
        config = TrainConfig(
            model=self.model,
            data=self.data or ("reviews" if micro else "places"),
            beta=(0.3 if micro else 0.1) if self.beta is None else self.beta,
            steps=self.steps or (300 if micro else 25),
        )
        _train(config, self.out, resume=False)


def resumed_train(arguments: list[str]):
    """`train` with the settings of the run in --out as its defaults; others are refused."""
    from dpo_lab.training.runs import Run

    positions = [i for i, a in enumerate(arguments) if a == "--out" or a.startswith("--out=")]
    if not positions:
        raise ValueError("--resume: which run? Name its folder with --out.")
    at = positions[-1]
    inline = arguments[at].partition("=")[2]
    out = inline or (arguments[at + 1] if at + 1 < len(arguments) else "")
    if not out or not Run(out).exists:
        return Train
    saved = Run(out).config

    def resumed(train: Annotated[Train, tyro.conf.arg(name="")] = Train(config=saved)) -> Train:  # noqa: B008
        for option in fields(TrainConfig):
            asked, kept = getattr(train.config, option.name), getattr(saved, option.name)
            # Whether a model's code may run is no setting of the run, but of who types it.
            if asked != kept and option.name != "trust_remote_code":
                raise ValueError(
                    f"--{option.name.replace('_', '-')} {asked}: this run has {kept}, and a "
                    "resumed run keeps its settings. Leave it out, or begin another run."
                )
        return train

    resumed.__doc__ = Train.__doc__
    return resumed


def _train(config: TrainConfig, out: Path | None, resume: bool) -> None:
    from dpo_lab.cli.jobs import train_and_report
    from dpo_lab.training.runs import new_folder

    folder = out or new_folder(config)
    train_and_report(config, folder, resume=resume, console=new_console(), say=say)
