"""The command `sweep`: a grid over any settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro
from docstring_parser import parse_from_object

from dpo_lab.cli.output import new_console, print_rows
from dpo_lab.training.config import TrainConfig


def _run(sweep: Any) -> None:
    from dpo_lab.training.files import write_table
    from dpo_lab.training.sweep import grid
    from dpo_lab.training.sweep import sweep as run_sweep
    from dpo_lab.ui.sweep_page import write_sweep_page

    given = {name: getattr(sweep, name) for name in _swept()}
    single = {name: values[0] for name, values in given.items() if len(values) == 1}
    varied = {name: values for name, values in given.items() if len(values) > 1}
    configs = grid(TrainConfig(**single), varied)
    console = new_console()

    def done(name: str, count: int, total: int) -> None:
        console.print(f"{count}/{total}  {name}", markup=False, highlight=False)

    rows = run_sweep(configs, sweep.out, workers=sweep.workers, done=done)
    print_rows([_short(row, varied) for row in rows])
    console.print(f"Table   {write_table(rows, sweep.out / 'sweep.csv')}", markup=False)
    write_table(rows, sweep.out / "sweep.parquet")
    page = write_sweep_page(configs, rows, sweep.out / "sweep.html")
    console.print(f"Figure  {page}", markup=False)


def _short(row: Mapping[str, Any], varied: Mapping[str, Any]) -> dict[str, Any]:
    """What fits on a line; the files have all of it."""
    short = {name: row[name] for name in varied}
    short["accuracy"] = _shown(row["eval/rewards/accuracies"])
    short["KL"] = _shown(row["kl/policy"], row["kl/policy_stderr"])
    short["score"] = _shown(row["score"])
    if row["score_low"] is not None:
        short["95 % interval"] = f"{row['score_low']:.3f} to {row['score_high']:.3f}"
    return short


def _shown(value: float | None, error: float | None = None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" + (f" ± {error:.3f}" if error is not None else "")


def _swept() -> dict[str, Any]:
    """Every setting that is one value, with its type."""
    hints = get_type_hints(TrainConfig, include_extras=False)
    return {f.name: hints[f.name] for f in fields(TrainConfig) if _plain(hints[f.name])}


def _plain(kind: Any) -> bool:
    return get_origin(kind) not in (dict, tuple) and tuple not in map(get_origin, get_args(kind))


def _command() -> type:
    parsed = parse_from_object(TrainConfig).params
    told = {setting.arg_name: " ".join(setting.description.split()) for setting in parsed}
    defaults = TrainConfig()
    columns: list[tuple] = [
        (
            name,
            Annotated[tuple[kind, ...], tyro.conf.arg(help=told[name])],
            (getattr(defaults, name),),
        )
        for name, kind in _swept().items()
    ]
    out = Annotated[Path, tyro.conf.arg(help="Folder of the runs; begun again, it goes on.")]
    workers = Annotated[
        int | None, tyro.conf.arg(help="Processes; by default one a core on the CPU, else one.")
    ]
    columns += [("out", out, Path("runs/sweep")), ("workers", workers, None)]
    command = make_dataclass("Sweep", columns, frozen=True, namespace={"__call__": _run})
    command.__doc__ = "Train every combination of the settings that are given several values."
    return command


Sweep = _command()
