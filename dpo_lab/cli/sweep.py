"""The command `sweep`: a grid over any settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from dpo_lab.cli.output import new_console, print_rows, say
from dpo_lab.cli.settings import command, given, settings
from dpo_lab.cli.signals import ended_by_signals
from dpo_lab.training.config import TrainConfig

ABOUT = """Train every combination of the settings that are given several values.

Examples:
  dpo-lab sweep --beta 0.05 0.1 0.5 1 --seed 0 1 2 --steps 300
  dpo-lab sweep --loss sigmoid ipo --learning-rate 1e-3 3e-3 --out runs/losses
  dpo-lab sweep --model smollm2 --data places --beta 0.1 0.3 --workers 1"""
OUT = "Folder of the runs, by default sweep/ beside other runs; begun again, it goes on."
WORKERS = "Processes; by default one a core on the CPU, else one."


def _run(sweep: Any) -> None:
    from dpo_lab.training.files import check_writable, write_table
    from dpo_lab.training.run_folders import runs_folder
    from dpo_lab.training.sweep import SweepFailed, grid, sweep as run_sweep
    from dpo_lab.ui.report.sweep_page import write_sweep_page

    asked, plain = given(sweep), {each.name for each in settings() if each.plain}
    varied = {name: values for name, values in asked.items() if name in plain and len(values) > 1}
    # Of what varies the first value, not the default, which may not fit the rest.
    first = {name: value[0] if name in plain else value for name, value in asked.items()}
    configs = grid(TrainConfig(**first), varied)
    console, out = new_console(), sweep.out or runs_folder() / "sweep"
    check_writable(out)

    def done(name: str, count: int, total: int) -> None:
        console.print(f"{count}/{total}  {name}", markup=False, highlight=False)

    failed = None
    try:
        with ended_by_signals():
            rows = run_sweep(configs, out, workers=sweep.workers, done=done)
    except SweepFailed as some:
        failed, rows = some, some.rows
    if rows:
        print_rows([_short(row, varied) for row in rows])
        console.print(f"Table   {write_table(rows, out / 'sweep.csv')}", markup=False)
        write_table(rows, out / "sweep.parquet")
        page = write_sweep_page(configs, rows, out / "sweep.html")
        console.print(f"Figure  {page}", markup=False)
    if failed:
        say(f"error: {failed}")
        raise SystemExit(3)


def _short(row: Mapping[str, Any], varied: Mapping[str, Any]) -> dict[str, Any]:
    """What fits on a line; the files have all of it."""
    short = {name: row[name] for name in varied}
    short["accuracy"] = _shown(row["eval/rewards/accuracies"])
    short["KL"] = "≥ " * bool(row["kl/cut"]) + _shown(
        row["kl/per_token"], row["kl/per_token_stderr"]
    )
    short["score"] = _shown(row["score"])
    if row["score_low"] is not None:
        short["95 % interval"] = f"{row['score_low']:.3f} to {row['score_high']:.3f}"
    return short


def _shown(value: float | None, error: float | None = None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" + (f" ± {error:.3f}" if error is not None else "")


def sweep_command() -> type:
    """The command `sweep`."""
    own = [
        ("out", Annotated[Path | None, tyro.conf.arg(help=OUT, help_behavior_hint="")], None),
        (
            "workers",
            Annotated[int | None, tyro.conf.arg(help=WORKERS, help_behavior_hint="")],
            None,
        ),
    ]
    return command("Sweep", ABOUT, _run, own, several=True)


Sweep = sweep_command()
