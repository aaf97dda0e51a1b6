"""The commands that look at runs: `runs list`, `runs show` and `runs report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dpo_lab.cli.arguments import SAID, Flag
from dpo_lab.cli.output import new_console, print_rows, say, visible


@dataclass(frozen=True)
class RunsList:
    """List the runs in a folder."""

    folder: Annotated[tyro.conf.Positional[Path | None], SAID] = None
    """The folder that holds the runs; by default $DPO_LAB_RUNS, or runs/ at the project's root."""

    def __call__(self) -> None:
        """Print one line a run."""
        from dpo_lab.training.run_folders import list_runs, runs_folder
        from dpo_lab.ui.report.summary import run_rows

        folder = self.folder or runs_folder()
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder. Train something first.")
        runs = list_runs(folder)
        if not runs:
            raise FileNotFoundError(f"{folder}: holds no runs. Train something first.")
        rows, reasons = run_rows(runs)
        print_rows(rows)
        for reason in reasons:
            say(reason)


@dataclass(frozen=True)
class RunsShow:
    """Show a run: settings, what changed, answers."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""

    def __call__(self) -> None:
        """Print it."""
        from dpo_lab.cli.terminal import print_outcome
        from dpo_lab.training.runs import Run
        from dpo_lab.ui.report.summary import run_row, shape_checked

        run = Run.open(self.run)
        console = new_console()
        with shape_checked(run):
            for name, value in run_row(run).items():
                console.print(f"{name:<12} {value}", markup=False)
            print_outcome(console, run.summary, run.last_samples())
            console.print_json(data=run.settings, ensure_ascii=True)


@dataclass(frozen=True)
class RunsReport:
    """Write a run's report: an HTML page that needs no network."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    single_file: Flag = False
    """Put the library that draws the curves, 5 MB, into the page, so that it can be sent alone;
    otherwise the pages of a folder of runs share one copy of it."""

    def __call__(self) -> None:
        """Write it and say where."""
        from dpo_lab.training.runs import Run
        from dpo_lab.ui.report.summary import report_of, shape_checked

        run = Run.open(self.run)
        with shape_checked(run):
            page = report_of(run, single_file=self.single_file)
        print(visible(str(page)))
