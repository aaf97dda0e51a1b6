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
from dpo_lab.training.runs import Run, new_folder
from dpo_lab.ui.controls import Control, setting_names
from dpo_lab.ui.figures import training_figure, training_spec
from dpo_lab.ui.live import LiveFigure, Ticker
from dpo_lab.ui.panels import Bar, notice, page, samples_panel
from dpo_lab.ui.runs_table import RunsTable
from dpo_lab.ui.shelf import Shelf, ShelvedRun
from dpo_lab.ui.state import MID_RUN, WorkbenchState
from dpo_lab.ui.summary import start_loss
from dpo_lab.ui.theory import Theories, Theory

MICRO_DEFAULTS = {"steps": 300, "beta": 0.3}
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
        self._inputs = {
            "model": None if isinstance(model, str) else model,
            "data": None if isinstance(data, str) else data,
            "score": score,
        }
        settings["model"] = model if isinstance(model, str) else model.name
        settings["data"] = data if isinstance(data, str) else IN_MEMORY
        if settings["model"] == "micro":
            settings = MICRO_DEFAULTS | settings
            if "epochs" in settings:
                del settings["steps"]
        self.state = WorkbenchState(TrainConfig(**settings))
        self.run: BackgroundRun | None = None
        self._shown: BackgroundRun | ShelvedRun | None = None
        self._ticker: Ticker | None = None
        self._closed = ""
        self._error: BaseException | None = None
        self._theories = Theories()
        self._warm_up: BackgroundRun | None = None
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
        self.view = page(
            self.controls, self.bar.view, self.figure, self._notice, self._samples, self.runs.view
        )
        self.state.observe(self._set, "config")
        _close_the_one_before(self)
        self._warm_up = self._warmed_up()

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
            return self._start(self.state.config, keep=True)

    def step(self, steps: int = 1) -> BackgroundRun:
        """Some optimiser steps, then pause: of the run that is going on, or of a new one."""
        with self._lock:
            if self.run is None or not self.run.running:
                self._start(self.state.config, keep=True, paused=True)
            control = self.run.control
            if not control.paused:
                control.pause()
            control.step(steps)
            return self.run

    def change(self, **settings: Any) -> None:
        """New settings; beta and learning rate take effect in a run that is going on, too.

        Raises:
            ValueError: If a setting is wrong, or names a model or data instead of those that the
                workbench was made with.
        """
        config = replace(self.state.config, **settings)
        for name in ("model", "data"):
            asked, own = getattr(config, name), getattr(self.state.config, name)
            if asked != own and IN_MEMORY in (asked, own) or asked != own and self._inputs[name]:
                raise ValueError(
                    f"{name}={asked!r}: this workbench was made with {own!r}. Make another one."
                )
        with self.state.from_code():
            self.state.config = config
            self.state.problems = {}

    def pause(self) -> None:
        """Wait after the step in progress."""
        if self.run:
            self.run.control.pause()
            self._hurry()

    def resume(self) -> BackgroundRun | None:
        """Go on: with the run that is paused, or with the unfinished one that is shown.

        Raises:
            FileNotFoundError: If the folder of the unfinished one is gone.
        """
        with self._lock:
            if self.run and self.run.running:
                self.run.control.resume()
                self._hurry()
            elif isinstance(self._shown, ShelvedRun) and self._shown.unfinished:
                shown, wanted = self._shown, self.state.config
                Run.open(shown.folder)
                moved = {name for name in MID_RUN if getattr(wanted, name) != self._loaded[name]}
                self._start(shown.config, folder=shown.folder)
                self.run.control.set(**{name: getattr(wanted, name) for name in moved})
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
            self._shelve()
            self.run = self._shown = self._error = None
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
            self._shelve()
            beta = run.records[-1].beta if run.records else run.config.beta
            self.change(**run.config.as_dict() | {"beta": beta})
            self._shown, self._error = run, None
            self._loaded = {name: getattr(self.state.config, name) for name in MID_RUN}
            self.state.phase = run.state
            self._draw()
            self.figure.settle()

    def picture(self) -> go.Figure:
        """The curves as they stand, as a figure for pages without a kernel."""
        return training_figure(self._records(), **self._around())

    def close(self, words: str = "closed") -> None:
        """Stop the run and its drawing, and let go of the model; the page keeps what it shows."""
        for run in (self.run, self._warm_up):
            if run:
                run.end()
        with self._lock:
            self._closed = words
            self.run = self._shown = None
            self._inputs = dict.fromkeys(self._inputs)
        self.bar.close(words)

    def _repr_mimebundle_(self, **options):
        words = "The workbench: run this cell to open it."
        shown = self.view._repr_mimebundle_(**options)
        return shown and shown | {"text/plain": words, "text/html": f"<em>{words}</em>"}

    # From here on: what happens when.

    def _set(self, change) -> None:
        """A setting was changed, by hand or from code."""
        old, new = change["old"].resolved(), change["new"].resolved()
        changed = {name for name in MID_RUN if getattr(old, name) != getattr(new, name)}
        with self._lock:
            if self.run and self.run.running:
                if changed:
                    self.run.control.set(**{name: getattr(new, name) for name in changed})
                    self._hurry()
            elif "beta" in changed and self.state.by_hand and self._instant:
                self._start(change["new"])

    @property
    def _instant(self) -> bool:
        """Whether letting go of beta trains."""
        return self.bar.instant.value and not self.state.problems and not self._closed

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
        if self._closed:
            raise RuntimeError(self._closed)
        if self._warm_up:
            self._warm_up.stop()
        self._shelve()
        if keep and self.shelf.folder is not None:
            folder = new_folder(config, self.shelf.folder)
        self._theories.begin()
        run = BackgroundRun(
            config, folder=folder, on_prepared=self._theories.prepared, **self._inputs
        )
        if paused:
            run.control.pause()
        self._ticker = Ticker(self._follow)
        run.followers.append(self._ticker)
        self.run = self._shown = run
        self._error = None
        self.state.phase = run.state
        self.figure.fit()
        self._ticker.start()
        return run.start()

    def _warmed_up(self) -> BackgroundRun | None:
        """Take a step that nobody sees, while the page is read: a kernel's first is slow."""
        if self.state.config.model != "micro" or any(
            given is not None for given in self._inputs.values()
        ):
            return None
        short = replace(self.state.config, steps=1, epochs=None)
        run = BackgroundRun(short, on_prepared=self._theories.warm, **self._inputs)
        ticker = Ticker(self._draw)
        run.followers.append(ticker)
        ticker.start()
        return run.start()

    def _draw(self) -> None:
        """Everything that follows the run; in the drawing thread while one is going on."""
        with self._lock:
            if self._closed:
                return
            self._shelve()
            shown, before = self._shown, self.state.phase
            going_on = isinstance(shown, BackgroundRun)
            self.state.phase = "idle" if shown is None else shown.state
            self.bar.show(shown, self._error, ready=not (self._warm_up and self._warm_up.running))
            resting = self.state.phase != before and self.state.phase != "training"
            if resting or not going_on or not self.figure.busy:
                self.figure.draw(self._spec())
            if resting:
                self.figure.settle()
            self._notice.value = notice(self._records(), self._theory)
            samples = samples_panel(shown.samples if shown else [])
            if self._samples.value != samples:
                self._samples.value = samples

    def _shelve(self) -> None:
        """The run that is shown joins the others once it has ended, to be drawn behind the next."""
        run = self._shown
        if not isinstance(run, BackgroundRun) or run.running:
            return
        self._shown, self._error = self.shelf.add(run), run.error
        beta = run.records[-1].beta if run.records else run.config.beta
        self._loaded = {"beta": beta, "learning_rate": self.state.config.learning_rate}
        self._theories.shelve(self._shown.name)
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
        records = self._records()
        config = self._shown.config if self._shown else self.state.config
        return start_loss(config, records[-1].beta if records else None)

    def _behind(self) -> list[str]:
        shown = self._shown
        own = shown and (shown.folder.name if shown.folder else getattr(shown, "name", None))
        return [name for name in self.runs.ticked if name != own]

    def _spec(self) -> dict[str, Any]:
        return training_spec(self._records(), **self._around())

    def _around(self) -> dict[str, Any]:
        """What is drawn around the records."""
        former = self.shelf.former(self._behind())
        return {"start_loss": self._start_loss(), "former": former, "theory": self._theory}

    @property
    def _theory(self) -> Theory | None:
        """The exact frontier of the run that is shown, where it is known."""
        if isinstance(self._shown, ShelvedRun):
            return self._theories.of(self._shown.name)
        return self._theories.current if self._shown else None

    def _follow(self) -> None:
        """The drawing thread's work."""
        self._draw()
        if self._theories.compute():
            self._draw()
            self.figure.settle()


_open: weakref.ref[Workbench] | None = None


def _close_the_one_before(new: Workbench) -> None:
    global _open
    before, _open = _open and _open(), weakref.ref(new)
    if before is not None:
        before.close("closed: another workbench was opened")
