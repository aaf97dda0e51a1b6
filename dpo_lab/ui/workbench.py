"""The workbench: controls, a run, its curves, its answers, and the runs before it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go

from dpo_lab.data.preferences import Preferences, Score
from dpo_lab.models.loading import LanguageModel
from dpo_lab.training.background import BackgroundRun
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.history import History
from dpo_lab.training.runs import new_folder
from dpo_lab.ui.controls import MAIN, Control, setting_names
from dpo_lab.ui.figures import training_figure, training_spec
from dpo_lab.ui.live import LiveFigure, Ticker
from dpo_lab.ui.panels import Bar, notice, samples_panel, style
from dpo_lab.ui.runs_table import RunsTable
from dpo_lab.ui.shelf import Shelf, ShelvedRun
from dpo_lab.ui.state import MID_RUN, WorkbenchState
from dpo_lab.ui.summary import start_loss

MICRO_DEFAULTS = {"steps": 300, "beta": 0.3, "checkpoint_every": 0}
"""At beta 0.1, micro ends with the same answer to everything."""
IN_MEMORY = "(in memory)"


class Workbench:
    """Tune beta, train, and watch; the same from the page and from code.

    There is one workbench at a time: a new one stops and closes the one before, so that a cell run
    again leaves no thread behind.

    Args:
        model: micro, smollm2, a folder, a hub id, or a model already loaded (a copy is trained).
        data: reviews, places, a file, a folder, a hub id, or pairs or rows in memory.
        score: Ground-truth score of `(prompt, response)`, instead of the data set's own.
        folder: Where runs are kept, and runs of earlier sessions are found; none keeps nothing.
        **settings: Any other field of `TrainConfig`.

    Attributes:
        state: Its settings.
        run: The run that is going on, or the last one.
        figure: The live figure.
        shelf: The runs at hand.
        view: All of it as one widget.

    Raises:
        ValueError: If a setting is wrong.
    """

    def __init__(
        self,
        model: str | LanguageModel = "micro",
        data: str | Preferences | Sequence[dict] = "reviews",
        *,
        score: Score | None = None,
        folder: str | Path | None = "runs",
        **settings: Any,
    ):
        _close_the_one_before(self)
        self._inputs = {
            "model": None if isinstance(model, str) else model,
            "data": None if isinstance(data, str) else data,
            "score": score,
        }
        settings["model"] = model if isinstance(model, str) else model.name
        settings["data"] = data if isinstance(data, str) else IN_MEMORY
        if settings["model"] == "micro":
            settings = MICRO_DEFAULTS | settings
        self.state = WorkbenchState(TrainConfig(**settings))
        self.run: BackgroundRun | None = None
        self._shown: BackgroundRun | ShelvedRun | None = None
        self._ticker: Ticker | None = None
        self._lock = threading.RLock()
        self.shelf = Shelf(Path(folder) if folder is not None else None)
        self.controls = {name: Control(self.state, name) for name in setting_names()}
        for name, given in self._inputs.items():
            if given is not None and name in self.controls:
                self.controls[name].value.disabled = True
        self.bar = Bar(self)
        self.runs = RunsTable(self.shelf, self._draw, self.show)
        self.figure = LiveFigure(self._spec())
        self.figure.add_class("dpo-figure")
        self._notice = widgets.HTML().add_class("dpo-notice")
        self._samples = widgets.HTML(samples_panel([])).add_class("dpo-samples")
        self.view = self._laid_out()
        self.state.observe(self._set, "config")

    def train(self, **changes: Any) -> BackgroundRun:
        """Begin a run from the reference; returns at once, `wait` on what is returned.

        Args:
            **changes: Fields of the configuration, which the controls take on.

        Raises:
            RuntimeError: If a run is going on.
            ValueError: If a setting is wrong.
        """
        with self._lock:
            self._check_free()
            self.change(**changes)
            return self._start(replace(self.state.config), keep=True)

    def step(self, steps: int = 1) -> BackgroundRun:
        """Some optimiser steps, then pause: of the run that is going on, or of a new one."""
        with self._lock:
            if self.run is None or not self.run.running:
                self._start(replace(self.state.config), keep=True, paused=True)
            self.run.control.pause()
            self.run.control.step(steps)
            return self.run

    def change(self, **settings: Any) -> None:
        """New settings; beta and learning rate take effect in a run that is going on, too.

        Raises:
            ValueError: If a setting is wrong.
        """
        with self.state.from_code():
            self.state.config = replace(self.state.config, **settings)
            self.state.problems = {}

    def pause(self) -> None:
        """Wait after the step in progress."""
        if self.run:
            self.run.control.pause()
            self._hurry()

    def resume(self) -> BackgroundRun | None:
        """Go on: with the run that is paused, or with the unfinished one that is shown."""
        with self._lock:
            if self.run and self.run.running:
                self.run.control.resume()
                self._hurry()
            elif isinstance(self._shown, ShelvedRun) and self._shown.unfinished:
                self._start(self._shown.config, folder=self._shown.folder)
            return self.run

    def stop(self) -> None:
        """End the run after the step in progress."""
        if self.run:
            self.run.stop()
            self._hurry()

    def reset(self) -> None:
        """Back to the reference: no run is shown, none is drawn behind.

        Raises:
            RuntimeError: If a run is going on.
        """
        with self._lock:
            self._check_free()
            self.run = self._shown = None
            self.runs.clear()
            self.state.phase = "idle"
            self._draw()
            self.figure.settle()

    def show(self, run: ShelvedRun) -> None:
        """Show a run again, and take on its settings.

        Raises:
            RuntimeError: If a run is going on.
        """
        with self._lock:
            self._check_free()
            self.change(**run.config.as_dict())
            self._shown = run
            self.state.phase = run.state
            self._draw()
            self.figure.settle()

    def picture(self) -> go.Figure:
        """The curves as they stand, as a figure for pages without a kernel."""
        former = self.shelf.former(self._behind())
        return training_figure(self._records(), start_loss=self._start_loss(), former=former)

    def close(self) -> None:
        """Stop the run and its drawing; the page keeps what it shows."""
        if self.run and self.run.running:
            self.run.stop()
            self.run.wait()
        self.bar.close()

    def _repr_mimebundle_(self, **options):
        words = "The workbench: run this cell to open it."
        shown = self.view._repr_mimebundle_(**options)
        return shown and shown | {"text/plain": words, "text/html": f"<em>{words}</em>"}

    # From here on: what happens when.

    def _set(self, change) -> None:
        """A setting was changed, by hand or from code."""
        old, new = change["old"], change["new"]
        changed = {name for name in MID_RUN if getattr(old, name) != getattr(new, name)}
        with self._lock:
            if self.run and self.run.running:
                if changed:
                    self.run.control.set(**{name: getattr(new, name) for name in changed})
                    self._hurry()
            elif "beta" in changed and self.state.by_hand and self.bar.instant.value:
                self._start(replace(new), keep=False)

    def _check_free(self) -> None:
        if self.run and self.run.running:
            raise RuntimeError("a run is going on: stop it, or wait for it.")

    def _start(
        self,
        config: TrainConfig,
        *,
        keep: bool = False,
        folder: Path | None = None,
        paused: bool = False,
    ) -> BackgroundRun:
        if keep and self.shelf.folder is not None:
            folder = new_folder(config, self.shelf.folder)
        run = BackgroundRun(config, folder=folder, **self._inputs)
        if paused:
            run.control.pause()
        self._ticker = Ticker(self._draw)
        run.followers.append(self._ticker)
        self.run = self._shown = run
        self.state.phase = run.state
        self.figure.fit()
        self._ticker.start()
        return run.start()

    def _draw(self) -> None:
        """Everything that follows the run; in the drawing thread while one is going on."""
        with self._lock:
            shown, before = self._shown, self.state.phase
            going_on = isinstance(shown, BackgroundRun) and shown.running
            if isinstance(shown, BackgroundRun) and not going_on:
                self._shelve(shown)
            self.state.phase = "idle" if shown is None else shown.state
            resting = self.state.phase != before and self.state.phase != "training"
            if resting or not going_on or not self.figure.busy:
                self.figure.draw(self._spec())
            if resting:
                self.figure.settle()
            self.bar.show(self._shown)
            self._notice.value = notice(self._records())
            samples = samples_panel(shown.samples if shown else [])
            if self._samples.value != samples:
                self._samples.value = samples

    def _shelve(self, run: BackgroundRun) -> None:
        """A run that has ended joins the others, and will be drawn behind the next."""
        self._shown = self.shelf.add(run)
        if run.records:
            self.runs.tick(self._shown.name)
        else:
            self.runs.refresh()

    def _hurry(self) -> None:
        if self._ticker:
            self._ticker.hurry()

    def _records(self) -> History:
        return self._shown.records if self._shown else History()

    def _start_loss(self) -> float:
        return start_loss(self._shown.config if self._shown else self.state.config)

    def _behind(self) -> list[str]:
        own = self._shown.name if isinstance(self._shown, ShelvedRun) else None
        return [name for name in self.runs.ticked if name != own]

    def _spec(self) -> dict[str, Any]:
        former = self.shelf.former(self._behind())
        return training_spec(self._records(), start_loss=self._start_loss(), former=former)

    def _laid_out(self) -> widgets.Widget:
        main = widgets.HBox([self.controls[name].view for name in MAIN])
        more = [control.view for name, control in self.controls.items() if name not in MAIN]
        folded = widgets.Accordion([widgets.HBox(more).add_class("dpo-grid")], titles=["Advanced"])
        parts = [
            style(),
            main.add_class("dpo-grid"),
            folded,
            self.bar.view,
            self.figure,
            self._notice,
            self._samples,
            self.runs.view,
        ]
        return widgets.VBox(parts).add_class("dpo-workbench")


_open: weakref.ref[Workbench] | None = None


def _close_the_one_before(new: Workbench) -> None:
    global _open
    before, _open = _open and _open(), weakref.ref(new)
    if before is not None:
        before.close()
