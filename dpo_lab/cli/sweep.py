"""The command `sweep`: a grid over any settings."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from dpo_lab.cli.arguments import SAID
from dpo_lab.cli.output import new_console, print_rows, say
from dpo_lab.cli.settings import WHOLE, SeveralSettings, given
from dpo_lab.cli.signals import ended_by_signals
from dpo_lab.training.config import TrainConfig


@dataclass(frozen=True)
class Sweep:
    """Train every combination of the settings that are given several values.

    Examples:
      dpo-lab sweep --beta 0.05 0.1 0.5 1 --seed 0 1 2 --steps 300
      dpo-lab sweep --loss sigmoid ipo --learning-rate 1e-3 3e-3 --out runs/losses
      dpo-lab sweep --model smollm2 --data places --beta 0.1 0.3 --workers 1
      dpo-lab sweep --beta 0.1 0.3 1 --out /shared/x --engine ray --address auto --gpus-per-run 1
    """

    settings: SeveralSettings
    out: Annotated[Path | None, SAID] = None
    """Folder of the runs, by default sweep/ beside other runs; begun again, it goes on."""
    workers: Annotated[int | None, SAID] = None
    """Processes; by default one a core on the CPU, else one."""
    engine: Literal["local", "ray"] = "local"
    """Processes here, or tasks of a Ray cluster; --out is then a folder that all machines see."""
    address: Annotated[str | None, SAID] = None
    """The Ray cluster: auto, or host:port; by default one is started here."""
    gpus_per_run: float = 0
    """GPUs that Ray keeps for each run."""

    def __call__(self) -> None:
        """Train them and print a row a run."""
        from dpo_lab.cli.terminal import SweepBars
        from dpo_lab.training.files import check_writable, write_table
        from dpo_lab.training.run_folders import runs_folder
        from dpo_lab.training.sweep import SweepFailed, grid, sweep as run_sweep, table
        from dpo_lab.ui.report.sweep_page import SweepPage

        asked = given(self.settings)
        varied = {name: some for name, some in asked.items() if name not in WHOLE and len(some) > 1}
        for name in [name for name, some in asked.items() if not some and name not in WHOLE]:
            raise ValueError(f"--{name.replace('_', '-')}: no value. Give one or more.")
        # Of what varies the first value, not the default, which may not fit the rest.
        first = {name: some if name in WHOLE else some[0] for name, some in asked.items()}
        configs = grid(TrainConfig(**first), varied)
        console, out = new_console(), self.out or runs_folder() / "sweep"
        check_writable(out)

        page, failed = SweepPage(configs, out / "sweep.html"), None

        def done(name: str, count: int, total: int) -> None:
            console.print(f"{count}/{total}  {name}", markup=False, highlight=False)
            if count < total and (out / name).stat().st_mtime > begun:
                page.write(table(configs, out), going_on=True)

        begun = time.time()
        try:
            with ended_by_signals(), SweepBars(console) as bars:
                rows = run_sweep(
                    configs,
                    out,
                    workers=self.workers,
                    engine=self.engine,
                    address=self.address,
                    gpus_per_run=self.gpus_per_run,
                    done=done,
                    going=bars.show,
                )
        except SweepFailed as some:
            failed, rows = some, some.rows
        if rows:
            print_rows([_short(row, varied) for row in rows])
            console.print(f"Table   {write_table(rows, out / 'sweep.csv')}", markup=False)
            write_table(rows, out / "sweep.parquet")
            console.print(f"Figure  {page.write(rows)}", markup=False)
        if failed:
            say(f"error: {failed}")
            raise SystemExit(3)


def _short(row: Mapping[str, Any], varied: Mapping[str, Any]) -> dict[str, Any]:
    """What fits on a line; the files have all of it."""
    kl, error = row["kl/per_token"], row["kl/per_token_stderr"]
    short = {name: row[name] for name in varied} | {"accuracy": row["eval/rewards/accuracies"]}
    short["KL"] = None if kl is None else f"{'≥ ' * bool(row['kl/cut'])}{kl:.3f}"
    if error is not None:
        short["KL"] += f" ± {error:.3f}"
    short["score"] = row["score"]
    if row["score_low"] is not None:
        short["95 % interval"] = f"{row['score_low']:.3f} to {row['score_high']:.3f}"
    return short
