"""Toolbar of the workbench: buttons, progress and status."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ipywidgets as widgets

from dpo_lab.training.ongoing import OngoingRun
from dpo_lab.ui.html.run_status import numbers, share_done, status
from dpo_lab.ui.html.tables import escaped
from dpo_lab.ui.workbench.run_store import FinishedRun
from dpo_lab.ui.workbench.state import WorkbenchState


@dataclass(frozen=True)
class RunActions:
    """The methods of a workbench that its buttons call.

    Attributes:
        train: Start a run.
        pause: Pause after the step in progress.
        resume: Resume.
        stop: End the run.
        step: Take one optimiser step.
        reset: Back to the reference.
        current_run: Returns the run in progress, or the last one.
    """

    train: Callable[[], object]
    pause: Callable[[], object]
    resume: Callable[[], object]
    stop: Callable[[], object]
    step: Callable[[], object]
    reset: Callable[[], object]
    current_run: Callable[[], OngoingRun | None]


class Toolbar:
    """Buttons, progress and status of a workbench.

    Args:
        state: The settings.
        actions: What the buttons do.
    """

    def __init__(self, state: WorkbenchState, actions: RunActions):
        self._state, self._actions = state, actions
        self.train = _button("Train", "Train from the reference with these settings", "train")
        self.train.button_style = "primary"
        self.pause = _button("Pause", "Wait after the step in progress", "pause")
        self.stop = _button("Stop", "End the run; if it is kept, Resume takes it up again", "stop")
        self.step = _button("Step", "One optimiser step", "step")
        self.reset = _button("Reset", "Back to the reference: clear the curves", "reset")
        self.instant = widgets.Checkbox(
            value=state.config.model == "micro",
            description="train when β is let go",
            tooltip="Between runs, releasing β trains again; such runs are not kept",
            indent=False,
        ).add_class("dpo-instant")
        self.progress = widgets.FloatProgress(min=0, max=1).add_class("dpo-progress")
        self.numbers = widgets.HTML().add_class("dpo-numbers")
        self.status = widgets.HTML("idle").add_class("dpo-status")
        self.note = widgets.HTML().add_class("dpo-message")
        self.train.on_click(self._answering(self._if_all_is_right(actions.train)))
        self.pause.on_click(self._answering(self._pause_or_resume))
        self.stop.on_click(self._answering(actions.stop))
        self.step.on_click(self._answering(self._if_all_is_right(actions.step)))
        self.reset.on_click(self._answering(actions.reset))
        buttons = [self.train, self.pause, self.stop, self.step, self.reset, self.instant]
        line = [self.progress, self.numbers, self.status]
        rows = [widgets.HBox(row).add_class("dpo-bar") for row in (buttons, line)]
        self.view = widgets.VBox([*rows, self.note])
        state.observe(self._model_changed, "config")
        self.show(None)

    def _model_changed(self, change) -> None:
        """Training when beta is released is on by default for micro only."""
        if change["old"].model != change["new"].model:
            self.instant.value = change["new"].model == "micro"

    def show(
        self,
        run: OngoingRun | FinishedRun | None,
        error: BaseException | None = None,
        *,
        ready: bool = True,
        trouble: str = "",
    ) -> None:
        """Show progress, speed and state of a run, its error, or whether the kernel is ready.

        Args:
            run: The shown run.
            error: The error that it failed with.
            ready: Whether the kernel is ready.
            trouble: What keeps the page from showing the curves.
        """
        running = isinstance(run, OngoingRun) and run.running
        paused = running and run.control.paused
        resumable = isinstance(run, FinishedRun) and run.unfinished
        self.train.disabled = self.reset.disabled = running
        self.stop.disabled = not running
        self.pause.disabled = not (running or resumable)
        self.pause.description = "Resume" if paused or resumable else "Pause"
        self.step.disabled = running and not paused
        self.progress.value = share_done(run)
        self.numbers.value = escaped(numbers(run))
        words = status(run, error, idle="idle" if ready else "getting ready")
        self.status.value = escaped(f"{words} · {trouble}" if trouble else words)

    def say(self, words: str) -> None:
        """Show a message in the status line."""
        self.status.value = escaped(words)

    def close(self, words: str) -> None:
        """Disable the buttons and clear the note; the status line says why."""
        self.note.value = ""
        for button in (self.train, self.pause, self.stop, self.step, self.reset, self.instant):
            button.disabled = True
        self.say(words)

    def _if_all_is_right(self, work: Callable[[], object]) -> Callable[[], None]:
        """An action that starts a run, refused while a setting is invalid."""

        def begin() -> None:
            wrong = list(self._state.problems)
            if wrong and not self._running():
                raise ValueError(f"correct these settings first: {', '.join(wrong)}")
            work()

        return begin

    def _pause_or_resume(self) -> None:
        run = self._actions.current_run()
        if run and run.running and not run.control.paused:
            self._actions.pause()
        else:
            self._actions.resume()

    def _running(self) -> bool:
        run = self._actions.current_run()
        return run is not None and run.running

    def _answering(self, work):
        """A click handler that shows a refusal in the status line."""

        def clicked(_) -> None:
            try:
                work()
            except (RuntimeError, ValueError, OSError) as error:
                self.say(str(error))

        return clicked


def _button(words: str, tip: str, name: str) -> widgets.Button:
    return widgets.Button(description=words, tooltip=tip).add_class(f"dpo-{name}")
