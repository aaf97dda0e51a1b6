"""The table of runs: tick to overlay and compare, load, export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets

from dpo_lab.ui.figures.training_curves import FORMER_RUNS
from dpo_lab.ui.html.tables import compared_answers, escaped
from dpo_lab.ui.report.summary import row_of
from dpo_lab.ui.workbench.run_store import FinishedRun, RunStore

COLUMNS = ("run", "state", "model", "data", "loss", "beta", "step", "margin", "KL", "score")
SHOWN = 8
"""Rows before the older ones are folded away."""


class RunsTable:
    """A row a run, the newest on top; ticked runs are drawn behind the one that is shown.

    Args:
        shelf: The runs.
        on_tick: Called when other runs are ticked.
        on_load: Called with the run that shall be shown.

    Attributes:
        view: The table with its buttons.
    """

    def __init__(
        self, shelf: RunStore, on_tick: Callable[[], None], on_load: Callable[[FinishedRun], None]
    ):
        self.shelf, self._on_tick, self._on_load = shelf, on_tick, on_load
        self._ticks: dict[str, widgets.Checkbox] = {}
        self._lines: dict[str, widgets.HBox] = {}
        self._all = False
        self._rows = widgets.VBox().add_class("dpo-rows")
        space = widgets.HTML().add_class("dpo-tick")
        titles = _cells({column: column.replace("beta", "β") for column in COLUMNS}, "head")
        self._head = widgets.HBox([space, widgets.HTML(titles).add_class("dpo-cells")])
        self._note = widgets.HTML()
        self._message = widgets.HTML().add_class("dpo-message")
        self._answers = widgets.HTML()
        buttons = [
            self._button(words, tip, work)
            for words, tip, work in (
                ("Compare answers", "The ticked runs' answers side by side", self._compare),
                ("Load", "Show the newest ticked run, with its settings", self._load),
                ("CSV", "Every record of the ticked runs in one table", self._csv),
                ("Report", "A web page of each ticked run", self._report),
                ("All runs", "Show older runs too, or fold them away", self._fold),
            )
        ]
        heading = widgets.HTML("<h3>Runs</h3>")
        bar = widgets.HBox([heading, *buttons, self._message]).add_class("dpo-bar")
        self.view = widgets.VBox([bar, self._rows, self._answers]).add_class("dpo-runs")
        self.refresh()

    @property
    def ticked(self) -> list[str]:
        """Names of the ticked runs, the oldest first."""
        return [n for n in list(self.shelf.runs) if n in self._ticks and self._ticks[n].value]

    def tick(self, name: str) -> None:
        """Tick a run that is on the shelf, and untick the oldest beyond those that are drawn."""
        self._tick_of(name).value = True
        for old in self.ticked[: -FORMER_RUNS - 1]:
            self._ticks[old].value = False
        self.refresh()

    def clear(self) -> None:
        """Tick none."""
        for tick in self._ticks.values():
            tick.value = False

    def forget_message(self) -> None:
        """Say no more what the last click did."""
        self._say("")

    @property
    def held(self) -> list[widgets.Widget]:
        """All that it holds, folded away or not."""
        return [self.view, self._head, *self._lines.values(), *self._ticks.values()]

    def refresh(self) -> None:
        """Show what is on the shelf now."""
        runs = list(reversed(self.shelf.runs.values()))
        shown = runs if self._all else runs[:SHOWN]
        notes = ["No run yet: press Train."] * (not runs)
        folded = len(runs) - len(shown)
        notes += [f"{folded} older runs are folded away."] * (folded > 0)
        notes += [f"not readable: {words}" for words in self.shelf.unread]
        self._note.value = "".join(f"<p class='note'>{escaped(words)}</p>" for words in notes)
        head = [self._head] * bool(runs)
        self._rows.children = [*head, *map(self._line_of, shown), self._note]

    def _line_of(self, run: FinishedRun) -> widgets.HBox:
        if run.name not in self._lines:
            cells = widgets.HTML().add_class("dpo-cells")
            self._lines[run.name] = widgets.HBox([self._tick_of(run.name), cells])
        line = self._lines[run.name]
        line.children[1].value = _cells(_row(run))
        return line

    def _tick_of(self, name: str) -> widgets.Checkbox:
        if name not in self._ticks:
            tip = f"Draw {name} behind the run that is shown"
            tick = widgets.Checkbox(indent=False, tooltip=tip).add_class("dpo-tick")
            tick.observe(lambda change: self._on_tick(), "value")
            self._ticks[name] = tick
        return self._ticks[name]

    def _button(self, words: str, tip: str, work: Callable[[list[str]], str]) -> widgets.Button:
        button = widgets.Button(description=words, tooltip=tip)

        def clicked(_) -> None:
            ticked = self.ticked
            folding = work == self._fold or (work == self._compare and self._answers.value)
            if not ticked and not folding:
                self._say("Tick a run first.")
                return
            try:
                self._say(work(ticked))
            except (OSError, ValueError, RuntimeError) as error:
                self._say(str(error))

        button.on_click(clicked)
        return button

    def _say(self, words: str) -> None:
        self._message.value = escaped(words)

    def _compare(self, names: list[str]) -> str:
        runs = [self.shelf.runs[name] for name in names]
        if self._answers.value:
            self._answers.value = ""
        else:
            self._answers.value = compared_answers({run.label: run.samples for run in runs})
        return ""

    def _load(self, names: list[str]) -> str:
        self._on_load(self.shelf.runs[names[-1]])
        return f"{names[-1]} is shown."

    def _csv(self, names: list[str]) -> str:
        path = (self.shelf.folder or Path()) / "runs.csv"
        return f"Written: {self.shelf.export_csv(names, path)}"

    def _report(self, names: list[str]) -> str:
        return "Written: " + ", ".join(str(self.shelf.report(name)) for name in names)

    def _fold(self, names: list[str]) -> str:
        self._all = not self._all
        self.refresh()
        return ""


def _row(run: FinishedRun) -> dict:
    row = row_of(run.name, run.state, run.config.as_dict(), run.records)
    after = f" → {run.live.beta:.3g}" if run.live.beta != run.config.beta else ""
    return row | {"beta": f"{row['beta']:.3g}{after}"}


def _cells(row: dict, kind: str = "") -> str:
    cells = "".join(
        f"<span class='{column}' title='{escaped(row[column])}'>{escaped(row[column])}</span>"
        for column in COLUMNS
    )
    return f"<div class='dpo-row {kind}'>{cells}</div>"
