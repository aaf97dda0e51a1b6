"""The table of runs: tick to overlay and compare, load, export."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import ipywidgets as widgets

from dpo_lab.ui.figures.training_curves import FORMER_RUNS
from dpo_lab.ui.html.tables import compared_answers, escaped
from dpo_lab.ui.report.summary import row_of
from dpo_lab.ui.widgets.table import Table
from dpo_lab.ui.workbench.run_store import FinishedRun, RunStore

COLUMNS = {
    "run": 28, "state": 8, "model": 8, "data": 9, "loss": 9, "β": 9, "step": 6, "margin": 8,
    "KL": 8, "score": 7,
}  # fmt: skip
"""Titles, and widths in hundredths of the table."""
NUMBERS = ("β", "step", "margin", "KL", "score")
SHOWN = 8
"""Rows before the older ones are folded away."""


class RunsTable:
    """A row a run, the newest on top; ticked runs are drawn behind the one that is shown.

    Args:
        shelf: The runs.
        on_tick: Called when other runs are ticked.
        on_load: Called with the run that shall be shown.

    Attributes:
        table: The rows.
        view: The table with its buttons.
    """

    def __init__(
        self, shelf: RunStore, on_tick: Callable[[], None], on_load: Callable[[FinishedRun], None]
    ):
        self.shelf, self._on_load, self._all = shelf, on_load, False
        self._exporting: threading.Thread | None = None
        label = "Runs; arrow keys move, the space bar ticks"
        self.table = Table(label, COLUMNS, NUMBERS, tick="Draw it behind the run that is shown")
        self.table.observe(lambda change: on_tick(), "ticked")
        self._note, self._answers = widgets.HTML(), widgets.HTML()
        self._message = widgets.HTML().add_class("dpo-message")
        bar: list[widgets.Widget] = [widgets.HTML("<h3>Runs</h3>")]
        for words, tip, work in (
            ("Compare answers", "The ticked runs' answers side by side", self._compare),
            ("Load", "Show the newest ticked run, with its settings", self._load),
            ("CSV", "Every record of the ticked runs in one table", self._csv),
            ("Report", "A web page of each ticked run", self._report),
            ("Export", "The newest ticked run's model as a folder, checked", self._export),
            ("All runs", "Show older runs too, or fold them away", self._fold),
        ):
            bar.append(widgets.Button(description=words, tooltip=tip))
            bar[-1].on_click(partial(self._do, work))
        top = widgets.HBox([*bar, self._message]).add_class("dpo-bar")
        parts = [top, self.table.view, self._note, self._answers]
        self.view = widgets.VBox(parts).add_class("dpo-runs")
        self.refresh()

    @property
    def ticked(self) -> list[str]:
        """Names of the ticked runs, the oldest first."""
        return [name for name in list(self.shelf.runs) if name in self.table.ticked]

    def tick(self, name: str) -> None:
        """Tick a run that is on the shelf, and untick the oldest beyond those that are drawn."""
        wanted = [one for one in list(self.shelf.runs) if one in (*self.table.ticked, name)]
        self.table.ticked = wanted[-FORMER_RUNS - 1 :]
        self.refresh()

    def clear(self) -> None:
        """Tick none."""
        self.table.ticked = []

    def forget_message(self) -> None:
        """Say no more what the last click did."""
        self._message.value = ""

    def refresh(self) -> None:
        """Show what is on the shelf now."""
        runs = list(reversed(self.shelf.runs.values()))
        shown = runs if self._all else runs[:SHOWN]
        self.table.rows = [_row(run) for run in shown]
        notes = ["No run yet: press Train."] * (not runs)
        folded = len(runs) - len(shown)
        notes += [f"{folded} older runs are folded away."] * (folded > 0)
        notes += [f"not readable: {words}" for words in self.shelf.unread]
        self._note.value = "".join(f"<p class='note'>{escaped(words)}</p>" for words in notes)

    def _do(self, work: Callable[[], str | None], button: widgets.Button | None) -> None:
        try:
            words = work()
        except (OSError, ValueError, RuntimeError) as error:
            words = str(error)
        if words is not None:
            self._message.value = escaped(words)

    def _chosen(self) -> list[str]:
        if not self.ticked:
            raise ValueError("Tick a run first.")
        return self.ticked

    def _compare(self) -> str:
        if self._answers.value:
            self._answers.value = ""
        else:
            runs = [self.shelf.runs[name] for name in self._chosen()]
            self._answers.value = compared_answers({run.label: run.samples for run in runs})
        return ""

    def _load(self) -> str:
        name = self._chosen()[-1]
        self._on_load(self.shelf.runs[name])
        return f"{name} is shown."

    def _csv(self) -> str:
        path = (self.shelf.folder or Path()) / "runs.csv"
        return f"Written: {self.shelf.export_csv(self._chosen(), path)}"

    def _report(self) -> str:
        return "Written: " + ", ".join(str(self.shelf.report(name)) for name in self._chosen())

    def _export(self) -> None:
        """In a thread: the page must answer while a model is written, loaded and compared."""
        if self._exporting is not None and self._exporting.is_alive():
            raise ValueError("A model is being exported; wait for it.")
        name = self._chosen()[-1]
        self.shelf.check_export(name)
        self._message.value = escaped(f"{name}: its model is being written and compared ...")
        self._exporting = threading.Thread(
            target=self._do, args=(partial(self._exported, name), None), name="dpo-lab export"
        )
        self._exporting.daemon = True  # what it had written so far is not kept
        self._exporting.start()

    def _exported(self, name: str) -> str:
        done = self.shelf.export(name)
        (found,) = done.agreements
        return (
            f"Written: {done.folder}. Loaded again, KL(policy || export) is "
            f"{found.kl_per_token:.1e} nats a token; {found.greedy_differ:.0%} of the greedy "
            "answers differ."
        )

    def _fold(self) -> str:
        self._all = not self._all
        self.refresh()
        return ""


def _row(run: FinishedRun) -> list[str]:
    row = row_of(run.name, run.state, run.config.as_dict(), run.records)
    after = f" → {run.live.beta:.3g}" if run.live.beta != run.config.beta else ""
    return [str(text) for text in (row | {"beta": f"{row['beta']:.3g}{after}"}).values()]
