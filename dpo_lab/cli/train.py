"""The commands that train: `train`, also to resume, and `demo`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from dpo_lab.cli.arguments import SAID
from dpo_lab.cli.output import new_console
from dpo_lab.cli.settings import command, given
from dpo_lab.data.template_files import template_text
from dpo_lab.training.config import TrainConfig

OUT = "Folder of the run; by default a new one in $DPO_LAB_RUNS, or in runs/ at the project's root."
RESUME = (
    "Go on with the run in --out, with its own settings, of which --beta and --lr may be changed; "
    "begin one if there is none."
)


ABOUT = """Train a policy on preference pairs; every run is a folder that a kill leaves usable.

Examples:
  dpo-lab train --model smollm2 --data places
  dpo-lab train --model Qwen/Qwen3-0.6B --data pairs.jsonl --lora-rank 16 --out runs/mine
  dpo-lab train --resume --out runs/mine"""


def _train_given(made: Any) -> None:
    _train(TrainConfig(**given(made)), made.out, made.resume)


def train_command(
    values: dict[str, Any] | None = None, call: Callable[[Any], None] = _train_given
) -> type:
    """The command `train`, with other defaults than its own if given."""
    out = Annotated[Path | None, tyro.conf.arg(help=OUT, help_behavior_hint="")]
    resume = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help=RESUME)]
    own = [("out", out, None), ("resume", resume, False)]
    return command("Train", ABOUT, call, own, values)


Train = train_command()


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
    out: Annotated[Path | None, SAID] = None
    """Folder of the run; by default a new one in $DPO_LAB_RUNS, or in runs/ at the project's
    root."""

    def __call__(self) -> None:
        """Train, and say what changed."""
        micro = self.model == "micro"
        config = TrainConfig(
            model=self.model,
            data=self.data or ("reviews" if micro else "places"),
            beta=(0.3 if micro else 0.1) if self.beta is None else self.beta,
            steps=(300 if micro else 25) if self.steps is None else self.steps,
        )
        _train(config, self.out, resume=False)


def resumed_train(arguments: list[str]) -> type:
    """`train` with the settings of the run in --out as its defaults.

    Beta and the learning rate may be others from here on, which the records say; no other setting.
    """
    from dpo_lab.training.runs import Run

    positions = [i for i, a in enumerate(arguments) if a == "--out" or a.startswith("--out=")]
    if not positions:
        raise ValueError("--resume: which run? Name its folder with --out.")
    at = positions[-1]
    inline = arguments[at].partition("=")[2]
    out = inline or (arguments[at + 1] if at + 1 < len(arguments) else "")
    if not out or not Run(out).exists:
        return Train
    saved, live = Run(out).config.as_dict(), Run(out).live.as_dict()
    now = saved | live

    def resumed(made: Any) -> None:
        asked = given(made)
        if asked["chat_template"]:  # a run keeps the text, which is compared
            asked["chat_template"] = template_text(asked["chat_template"])
        changed = {name: value for name, value in asked.items() if value != now[name]}
        # Whether a model's code may run is no setting of the run, but of who types it.
        for name in changed.keys() - live.keys() - {"trust_remote_code"}:
            raise ValueError(
                f"--{name.replace('_', '-')} {changed[name]}: this run has {now[name]}, and a "
                "resumed run keeps its settings but beta and the learning rate. Leave it out, or "
                "begin another run."
            )
        moved = {name: changed[name] for name in live.keys() & changed.keys()}
        begun_with = {name: saved[name] for name in live}
        _train(TrainConfig(**asked | begun_with), made.out, made.resume, moved)

    return train_command(now, resumed)


def _train(
    config: TrainConfig, out: Path | None, resume: bool, changes: dict[str, float] | None = None
) -> None:
    from dpo_lab.cli.jobs import train_and_report
    from dpo_lab.training.run_folders import give_back, new_folder

    folder = out or new_folder(config)
    try:
        train_and_report(
            config, folder, resume=resume, changes=changes or {}, console=new_console()
        )
    finally:
        if out is None:
            give_back(folder)
