"""The Workbench widget: controls, a run with its curves and answers, and earlier runs."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go

from dpo_lab.data.builtin import RewardFn
from dpo_lab.data.preferences import Preferences
from dpo_lab.models.handed_over import AnyModel, as_language_model
from dpo_lab.models.model_settings import Strategy
from dpo_lab.training.background import BackgroundRun
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.followed import FollowedRun
from dpo_lab.training.job import Job
from dpo_lab.training.launched import LaunchedRun
from dpo_lab.training.live_settings import LiveSettings
from dpo_lab.training.ongoing import OngoingRun
from dpo_lab.training.run_folders import new_folder, runs_folder
from dpo_lab.training.runs import Run
from dpo_lab.ui.html.output import bundle
from dpo_lab.ui.html.tables import escaped
from dpo_lab.ui.widgets.free_widgets import free
from dpo_lab.ui.widgets.live import LiveFigure, Ticker
from dpo_lab.ui.workbench.controls import Control, setting_names
from dpo_lab.ui.workbench.data_panel import DataPanel
from dpo_lab.ui.workbench.layout import page
from dpo_lab.ui.workbench.run_store import FinishedRun, RunStore
from dpo_lab.ui.workbench.run_view import RunView
from dpo_lab.ui.workbench.runs_table import RunsTable
from dpo_lab.ui.workbench.state import WorkbenchState, check_template, in_effect
from dpo_lab.ui.workbench.toolbar import RunActions, Toolbar
from dpo_lab.ui.workbench.tracker_choice import TrackerChoice

MICRO_DEFAULTS = {"steps": 300, "beta": 0.3}
"""At beta 0.1, micro ends up giving the same answer to every prompt."""
IN_MEMORY = "(in memory)"


class Workbench:
    """Set beta, train, and watch; the same from the page and from code.

    There is one workbench at a time: a new one closes the previous one and frees its widgets, so
    that running a cell again leaves nothing behind. A run in progress is taken over if both were
    made with the same settings (as after a page reload); otherwise it is stopped. A note says so.

    Args:
        model: micro, smollm2, a folder, a hub id, or a model already loaded, alone or as
            `(model, tokenizer)` (a copy is trained).
        data: reviews, places, a file, a folder, a hub id; pairs, rows or a `datasets.Dataset`.
        reward_fn: Reward of `(prompt, response)`, instead of the data set's own.
        processes: Train in this many processes of their own, which go on when this kernel dies;
            `follow` finds their run again. By default runs are trained in this kernel.
        strategy: What these processes divide: `ddp` the pairs, `fsdp` the weights as well.
        folder: Where runs are kept, and where runs of earlier sessions and of the command line are
            found; `auto` is `runs_folder()`, none keeps nothing.
        report_to: Trackers that get the numbers of runs that are kept: tensorboard, wandb, trackio,
            mlflow and others that transformers knows. The page can change it, under Advanced.
        **settings: Any other field of `TrainConfig`.

    Attributes:
        state: Its settings.
        run: The run in progress, or the last one.
        warm_up: A hidden step of micro, taken while the user reads the page; none if not needed.
        screen: The widgets that follow the shown run.
        data: The data panel.
        trackers: Where kept runs are reported to.
        view: All of it as one widget.
        parts: Its top-level widgets, from top to bottom.

    Raises:
        ValueError: If a setting is invalid.
    """

    def __init__(
        self,
        model: AnyModel = "micro",
        data: str | Path | Preferences | Iterable[Mapping] = "reviews",
        *,
        reward_fn: RewardFn | None = None,
        processes: int | None = None,
        strategy: Strategy = "ddp",
        folder: str | Path | None = "auto",
        report_to: str | Sequence[str] | None = None,
        **settings: Any,
    ):
        named = [isinstance(source, str | Path) for source in (model, data)]
        self._inputs = {
            "model": None if named[0] else as_language_model(model),
            "data": None if named[1] else data,
            "reward_fn": reward_fn,
        }
        self.processes, self.strategy = processes, strategy
        if strategy == "fsdp" and (processes or 1) < 2:
            raise ValueError("strategy='fsdp': divides weights among processes; give at least 2.")
        if processes is not None:
            _check_processes(processes, self._inputs, folder)
        settings["model"] = str(model) if named[0] else self._inputs["model"].name
        settings["data"] = str(data) if named[1] else IN_MEMORY
        if settings["model"] == "micro":
            settings = MICRO_DEFAULTS | settings
            if "epochs" in settings:
                del settings["steps"]
        self.state = WorkbenchState(TrainConfig(**settings))
        self._made_with = self.state.config
        self.run: OngoingRun | None = None
        self._ticker: Ticker | None = None
        self._closed = ""
        self._taken_over = False
        self.warm_up: BackgroundRun | None = None
        self._lock = threading.RLock()
        self.screen = RunView(self.state, _kept_in(folder), self._draw, self.show)
        self.controls = {name: Control(self.state, name) for name in setting_names()}
        for name, in_memory in self._inputs.items():
            if in_memory is not None and name in self.controls:
                self.controls[name].value.disabled = True
        self.bar = Toolbar(self.state, self._actions())
        self.bar.instant.value &= processes is None  # those take seconds to start
        self.data = DataPanel(self.state, self._inputs["data"])
        screen = self.screen
        below = self.data.view, screen.figure.view, screen.notice, screen.samples, screen.runs.view
        self.trackers = TrackerChoice(report_to)
        self.view = page({**self.controls, "report_to": self.trackers}, self.bar.view, *below)
        self.parts = self.view.children
        self.state.observe(self._set, "config")
        self.state.observe(self._corrected, ["config", "problems"])
        self.figure.on_trouble = self._draw
        _replace_previous(self)
        if self.run is None:
            self.warm_up = self._warmed_up()

    @property
    def figure(self) -> LiveFigure:
        """The live figure."""
        return self.screen.figure

    @property
    def shelf(self) -> RunStore:
        """The finished runs."""
        return self.screen.shelf

    @property
    def runs(self) -> RunsTable:
        """The table of runs."""
        return self.screen.runs

    def train(self, **changes: Any) -> OngoingRun:
        """Start a run from the reference; returns at once: call `wait` on the result.

        A run that was taken over from the previous workbench is stopped first.

        Args:
            **changes: Fields of the configuration to change, also in the controls.

        Raises:
            RuntimeError: If a run is in progress, or the workbench was closed.
            ValueError: If a setting is invalid.
        """
        if self._taken_over and self.run:
            self.run.end()
        with self._lock:
            self._check_free()
            self.change(**changes)
            return self._start(self.state.config, keep=True)

    def follow(self, folder: str | Path) -> FollowedRun:
        """Show a run that another process trains, and steer it; returns at once.

        The controls take its settings. Beta, learning rate, pause, step, resume and stop act on it
        between two of its steps. Closing this workbench leaves it alone.

        Args:
            folder: The run's folder, on this machine or shared.

        Raises:
            FileNotFoundError: If the folder is not a run.
            RuntimeError: If a run is in progress, or the workbench was closed.
        """
        with self._lock:
            self._check_free()
            run = FollowedRun(folder)
            trust = {"trust_remote_code": self.state.config.trust_remote_code}
            settings = replace(run.config, **run.live.as_dict()).unresolved()
            self.change(**settings.as_dict() | trust)
            self._show_ongoing(run)
            return run.start()

    def step(self, steps: int = 1) -> OngoingRun:
        """Take some optimiser steps, then pause: in the run in progress, or in a new one."""
        with self._lock:
            if self.run is None or not self.run.running:
                if self.processes:
                    raise ValueError(
                        "processes of their own take single steps only in a paused run."
                    )
                self._start(self.state.config, keep=True, paused=True)
            control = self.run.control
            if not control.paused:
                control.pause()
            control.step(steps)
            return self.run

    def change(self, **settings: Any) -> None:
        """Change settings; beta and learning rate also take effect in a run in progress.

        Raises:
            ValueError: If a setting is invalid, or changes the model or data although the old or
                the new one is in memory.
            OSError: If the file of the chat template does not exist.
        """
        config = replace(self.state.config, **settings)
        check_template(config, self.state.config)
        for name in ("model", "data"):
            new, old = getattr(config, name), getattr(self.state.config, name)
            if new != old and IN_MEMORY in (new, old) or new != old and self._inputs[name]:
                raise ValueError(
                    f"{name}={new!r}: this workbench was made with {old!r}. Make another one."
                )
        with self.state.from_code():
            self.state.config = config
            self.state.problems = {}

    def pause(self) -> None:
        """Pause after the step in progress."""
        if self.run:
            self.run.control.pause()
            self._hurry()

    def resume(self) -> OngoingRun | None:
        """Resume the paused run, or the unfinished run that is shown.

        Raises:
            FileNotFoundError: If the folder of the unfinished run is gone.
        """
        with self._lock:
            if self.run and self.run.running:
                self.run.control.resume()
                self._hurry()
            elif isinstance(self.screen.shown, FinishedRun) and self.screen.shown.unfinished:
                shown, loaded = self.screen.shown, self.screen.loaded
                wanted = self.state.config
                Run.open(shown.folder)
                moved = LiveSettings.of(wanted).changed_from(loaded)
                # A run's file must never enable a model's code: only this workbench's setting may.
                trusted = wanted.trust_remote_code
                config = replace(shown.config, trust_remote_code=trusted)
                self._start(config, folder=shown.folder)
                self._move(moved)
            return self.run

    def stop(self) -> None:
        """End the run after the step in progress."""
        if self.run:
            self.run.stop()
            self._hurry()

    def reset(self) -> None:
        """Back to the reference: no run is shown, none is drawn behind.

        Raises:
            RuntimeError: If a run is in progress, or the workbench was closed.
        """
        with self._lock:
            self._check_free()
            self.screen.put_away()
            self.run = None
            self.screen.clear()
            self.bar.note.value = ""
            self._draw()

    def show(self, run: FinishedRun) -> None:
        """Show a run again; the controls take its settings, with the beta and rate it resumes with.

        Raises:
            RuntimeError: If a run is in progress, or the workbench was closed.
        """
        with self._lock:
            self._check_free()
            self.screen.put_away()
            trust = {"trust_remote_code": self.state.config.trust_remote_code}
            settings = replace(run.config, **run.live_to_resume.as_dict()).unresolved()
            self.change(**settings.as_dict() | trust)
            self.screen.show_again(run)
            self.bar.note.value = ""
            self._draw()

    def picture(self) -> go.Figure:
        """The current curves, as a figure for pages without a kernel."""
        return self.screen.picture()

    def close(self, words: str = "closed") -> None:
        """Stop the run and its drawing, and release the model; the page keeps what it shows.

        A run of another process goes on.
        """
        for run in (self.run, self.warm_up):
            if run:
                run.end()
        self._let_go(words)

    def _let_go(self, words: str) -> None:
        """Stop drawing and responding; a run in progress continues."""
        with self._lock:
            self._closed = words
            self.run = self.screen.shown = None
            self._inputs = dict.fromkeys(self._inputs)
        self.data.close()
        self.bar.close(words)
        self.runs.forget_message()

    def _repr_mimebundle_(self, **options):
        return bundle(self.view, options, "The workbench: run this cell to open it.")

    # Event handlers, and what they call.

    def _set(self, change) -> None:
        """A setting was changed, by hand or from code."""
        old, new = change["old"], change["new"]
        # Compared as set: a default that depends on another setting changes for the next run only.
        changed = LiveSettings.of(new).changed_from(LiveSettings.of(old))
        with self._lock:
            if self.run and self.run.running:
                if changed:
                    self._move(changed)
                    self._hurry()
            elif "beta" in changed and self.state.by_hand and self._instant:
                self._start(change["new"])

    def _move(self, changes: Mapping[str, float | None]) -> None:
        """Give the run new values of live settings; `None` is the run's own default."""
        moved = replace(self.run.config, **changes)
        self.run.control.set(**{name: in_effect(moved, name) for name in changes})

    def _corrected(self, change) -> None:
        """A setting was changed: messages about the old settings no longer hold."""
        with self._lock:
            if self.run and self.run.running or self._closed:
                return
            self.screen.forget_error()
            self.bar.show(self.screen.shown)

    def _actions(self) -> RunActions:
        return RunActions(
            train=self.train,
            pause=self.pause,
            resume=self.resume,
            stop=self.stop,
            step=self.step,
            reset=self.reset,
            current_run=lambda: self.run,
        )

    @property
    def _instant(self) -> bool:
        """Whether releasing the beta slider trains."""
        return self.bar.instant.value and not self.state.problems and not self._closed

    def _check_free(self) -> None:
        if self._closed:
            raise RuntimeError(self._closed)
        if self.run and self.run.running:
            raise RuntimeError("a run is going on: stop it, or wait for it.")

    def _start(
        self,
        config: TrainConfig,
        *,
        keep: bool = False,
        folder: Path | None = None,
        paused: bool = False,
    ) -> OngoingRun:
        if self._closed:
            raise RuntimeError(self._closed)
        if self.shelf.folder is not None and folder is None and (keep or self.processes):
            folder = new_folder(config, self.shelf.folder)
        if self.processes:
            launched = LaunchedRun(
                config, folder, self.processes, self.strategy, report_to=self.trackers.names
            )
            self._show_ongoing(launched)
            return launched.start()
        theories = self.screen.theories

        def prepared(job: Job) -> None:
            theories.prepared(job)
            self.data.show(job)

        names = self.trackers.names if keep or folder is not None else ()
        run = BackgroundRun(
            config, folder=folder, on_prepared=prepared, report_to=names, **self._inputs
        )
        if paused:
            run.control.pause()
        self._show_ongoing(run)
        return run.start()

    def _show_ongoing(self, run: OngoingRun) -> None:
        """Show a run that is about to start, here or elsewhere."""
        if self.warm_up:
            self.warm_up.stop()
        self.screen.put_away()
        self._taken_over = False
        self.bar.note.value = ""
        self.screen.theories.begin()
        self._ticker = Ticker(self._follow)
        run.followers.append(self._ticker)
        self.run = run
        self.screen.begin(run)
        self.state.phase = run.state
        self._ticker.start()

    def _warmed_up(self) -> BackgroundRun | None:
        """Take one hidden step while the user reads the page: a kernel's first step is slow."""
        if self.state.config.model != "micro" or any(
            in_memory is not None for in_memory in self._inputs.values()
        ):
            return None
        short = replace(self.state.config, steps=1, epochs=None)
        run = BackgroundRun(short, on_prepared=self.screen.theories.warm)
        ticker = Ticker(self._draw)
        run.followers.append(ticker)
        ticker.start()
        return run.start()

    def _draw(self) -> None:
        """Redraw everything that follows the run; in the drawing thread during a run."""
        with self._lock:
            if self._closed:
                return
            screen, before = self.screen, self.state.phase
            screen.put_away()
            self.state.phase = screen.phase
            ready = not (self.warm_up and self.warm_up.running)
            trouble = self.figure.trouble
            self.bar.show(screen.shown, screen.error, ready=ready, trouble=trouble)
            screen.draw(at_rest=screen.phase not in (before, "training"))

    def _hurry(self) -> None:
        if self._ticker:
            self._ticker.hurry()

    def _follow(self) -> None:
        """The drawing thread's work."""
        self._draw()
        if self.screen.theories.compute():
            self._draw()

    def _take_over(self, before: Workbench) -> None:
        """Take over the run of the previous workbench."""
        run, settings = before.run, before.state.config
        self.screen.theories = before.screen.theories
        before._let_go(REPLACED)
        with self._lock, self.state.from_code():
            self.state.config = settings
            self.run, self._taken_over = run, True
            self.screen.begin(run)
            self.state.phase = run.state
        self._ticker = Ticker(self._follow)
        self._ticker.start()
        run.followers.append(self._ticker)
        if not run.running:  # it may have ended before this follower was added
            self._ticker.end()


REPLACED = "closed: another workbench was opened"
_open: weakref.ref[Workbench] | None = None


def _replace_previous(new: Workbench) -> None:
    global _open
    before, _open = _open and _open(), weakref.ref(new)
    if before is None:
        return
    run = before.run if before.run and before.run.running else None
    same = before._made_with == new._made_with and before.shelf.folder == new.shelf.folder
    if run and same and not any((*before._inputs.values(), *new._inputs.values())):
        if before.warm_up:
            before.warm_up.end()
        new._take_over(before)
        new.bar.note.value = "The run that was going on in this kernel is shown again."
    else:
        before.close(REPLACED)
        if run:
            kept = f"{run.folder} keeps it" if run.folder else "it was not kept"
            step = run.records[-1].step if run.records else 0
            what = "is no longer followed" if isinstance(run, FollowedRun) else "was stopped"
            new.bar.note.value = escaped(
                f"The run of the workbench before {what} at step {step}; {kept}."
            )
    before.figure.close()
    before.view.children = [widgets.HTML(f"<p class='note'>{REPLACED}</p>")]
    free(*before.parts)


def _check_processes(processes: int, inputs: Mapping[str, Any], folder: object) -> None:
    """Raise if a run cannot be trained in processes of its own.

    Raises:
        ValueError: If model, data or reward are in memory, or no folder keeps the run.
    """
    if processes < 1:
        raise ValueError(f"processes={processes}: must be at least 1, or left out.")
    in_memory = [name for name, value in inputs.items() if value is not None]
    if in_memory or folder is None:
        what = " and ".join(in_memory) or "folder=None"
        raise ValueError(
            f"processes={processes}: other processes cannot reach {what}. Name a file, a folder or "
            "a hub id, or leave processes out."
        )


def _kept_in(folder: str | Path | None) -> Path | None:
    """The folder of runs that an argument `folder` stands for."""
    if folder is None:
        return None
    return runs_folder() if folder == "auto" else Path(folder)
