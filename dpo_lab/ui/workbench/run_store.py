"""Finished runs of this session and of earlier ones: kept by name, exported, made into reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_lab.training.config import TrainConfig
from dpo_lab.training.files import write_table
from dpo_lab.training.history import History
from dpo_lab.training.live_settings import LiveSettings
from dpo_lab.training.methods import METHODS
from dpo_lab.training.ongoing import OngoingRun
from dpo_lab.training.records import SampleRecord
from dpo_lab.training.run_folders import list_runs
from dpo_lab.training.runs import Run
from dpo_lab.ui.figures.training_curves import Former
from dpo_lab.ui.report.page import write_report
from dpo_lab.ui.report.summary import NOT_READABLE, report_of, start_loss, tiles

if TYPE_CHECKING:
    from dpo_lab.ui.export.export_run import Export

EARLIER_RUNS = 30
"""Maximum number of runs of earlier sessions that are read; the newest are taken."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that has ended, with what it takes to show it again.

    Attributes:
        name: Unique in the store.
        config: Its configuration.
        records: Its records.
        samples: Answers of its last evaluation.
        state: How it ended; unfinished after a kill.
        folder: Its folder, if it was kept.
        total_steps: Optimiser steps of the whole run, if known.
    """

    name: str
    config: TrainConfig
    records: History
    samples: Sequence[SampleRecord]
    state: str
    folder: Path | None = None
    total_steps: int | None = None

    @property
    def unfinished(self) -> bool:
        """Whether it can be resumed."""
        return self.state in ("stopped", "unfinished", "failed") and self.folder is not None

    @property
    def live(self) -> LiveSettings:
        """Beta and peak learning rate at its end."""
        return LiveSettings.after(self.config, self.records)

    @property
    def live_to_resume(self) -> LiveSettings:
        """Beta and peak learning rate to resume with; if it cannot be resumed, those at its end."""
        if self.unfinished and Run(self.folder).exists:
            return Run(self.folder).live
        return self.live

    @property
    def label(self) -> str:
        """Display name: name and beta."""
        return f"{self.name}, β {self.live.beta:.3g}"


class RunStore:
    """Finished runs by name, the newest last.

    Args:
        folder: Folder of the runs of earlier sessions; none for no such runs.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.runs: dict[str, FinishedRun] = {}
        self.unread: list[str] = []
        self._number = 0
        self._pages: dict[str, Path] = {}
        for run in list_runs(folder)[-EARLIER_RUNS:] if folder else ():
            try:
                self._put(_of_folder(run))
            except NOT_READABLE as error:
                self.unread.append(f"{run.path.name}: {error}")

    def add(self, run: OngoingRun) -> FinishedRun:
        """Add a run that has ended.

        A resumed run that never got to training keeps its earlier entry.
        """
        if run.folder:
            name = run.folder.name
            if run.total_steps is None and name in self.runs:
                return self.runs[name]
        else:
            self._number += 1
            name = f"run {self._number}"
        finished = FinishedRun(
            name,
            run.config,
            run.records,
            run.samples,
            "unfinished" if run.state == "dead" else run.state,
            run.folder,
            run.total_steps,
        )
        self._put(finished)
        return finished

    def _put(self, run: FinishedRun) -> None:
        self.runs.pop(run.name, None)
        self.runs[run.name] = run

    def former(self, names: Iterable[str], method: str = "dpo") -> list[Former]:
        """Runs to draw behind another, the newest first.

        Args:
            names: Their names.
            method: The other's method of training; if any differs, each is named.
        """
        chosen = set(names)
        runs = [run for run in self.runs.values() if run.name in chosen and run.records]
        differ = {run.config.method for run in runs} - {method}
        return [
            Former(run.label, run.records, METHODS[run.config.method].title if differ else "")
            for run in reversed(runs)
        ]

    def export_csv(self, names: Iterable[str], path: Path) -> Path:
        """Write every record of some runs to one table, one column per metric.

        Returns:
            `path`.
        """
        rows = [
            {"run": name, **record.as_dict(), **record.timing}
            for name in names
            for record in self.runs[name].records
        ]
        return write_table(rows, path)

    def report(self, name: str) -> Path:
        """Write a run's report page: in its folder or, if it has none, named after the run.

        A page that another kernel wrote under that name is kept.
        """
        run = self.runs[name]
        if run.folder:
            return report_of(Run.open(run.folder))
        return write_report(
            self._page(name),
            title=run.label,
            config=run.config.as_dict(),
            records=run.records,
            samples=run.samples,
            summary=tiles(run.records, None),
            environment={},
            start_loss=start_loss(run.config, run.records),
        )

    def check_export(self, name: str) -> None:
        """Raise for a run whose model is in no folder.

        Raises:
            ValueError: If it was not kept.
        """
        if self.runs[name].folder is None:
            raise ValueError(
                f"{name}: was kept in no folder, so there is no model to export. Give the "
                "workbench a folder: Workbench(folder='runs')."
            )

    def export(self, name: str) -> Export:
        """Write a run's policy, merged, in float32, into `export/` of its folder, and compare it.

        What an earlier call wrote there is replaced.
        """
        from dpo_lab.ui.export.export_run import export_run

        self.check_export(name)
        return export_run(self.runs[name].folder, merge=True, overwrite=True)

    def _page(self, name: str) -> Path:
        """Path of the report page of a run without a folder, the same at every call."""
        if name not in self._pages:
            folder = self.folder or Path()
            names = chain([name], (f"{name} ({number})" for number in count(2)))
            pages = (folder / f"{name}.html" for name in names)
            self._pages[name] = next(page for page in pages if not page.exists())
        return self._pages[name]


def _of_folder(run: Run) -> FinishedRun:
    return FinishedRun(
        run.path.name,
        run.config,
        History(run.records()),
        run.last_samples(),
        run.summary["state"],
        run.path,
        run.environment.get("total_steps"),
    )
