"""The part of the workbench that shows a run: curves, notice, sampled answers, table of runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go

from dpo_lab.analysis.frontier_curve import FrontierCache, FrontierCurve
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.history import History
from dpo_lab.training.live_settings import LiveSettings
from dpo_lab.training.ongoing import OngoingRun
from dpo_lab.ui.figures.training_figure import training_figure, training_spec
from dpo_lab.ui.html.run_status import notice, samples_panel
from dpo_lab.ui.report.summary import start_loss
from dpo_lab.ui.widgets.live import LiveFigure
from dpo_lab.ui.workbench.run_store import FinishedRun, RunStore
from dpo_lab.ui.workbench.runs_table import RunsTable
from dpo_lab.ui.workbench.state import WorkbenchState


class RunView:
    """The widgets of a workbench that follow the shown run.

    The caller of a method holds the workbench's lock.

    Args:
        state: The workbench's settings.
        folder: Where runs are kept.
        redraw: Called when other runs are ticked.
        show: Called with a run that the user wants to see again.

    Attributes:
        shown: The shown run: one in progress, or a finished one from the store.
        error: The error that it failed with.
        loaded: Beta and learning rate as it left them in the controls; `None` is the default.
        theories: The exact frontiers computed so far.
    """

    def __init__(
        self,
        state: WorkbenchState,
        folder: Path | None,
        redraw: Callable[[], None],
        show: Callable[[FinishedRun], None],
    ):
        self._state = state
        self.shown: OngoingRun | FinishedRun | None = None
        self.error: BaseException | None = None
        self.loaded = LiveSettings.of(state.config)
        self.theories = FrontierCache()
        self.shelf = RunStore(folder)
        self.runs = RunsTable(self.shelf, redraw, show)
        self.figure = LiveFigure(self._spec())
        self.notice = widgets.HTML().add_class("dpo-notice")
        self.samples = widgets.HTML(samples_panel([])).add_class("dpo-samples")

    @property
    def phase(self) -> str:
        """`idle`, or the state of the shown run."""
        return "idle" if self.shown is None else self.shown.state

    def begin(self, run: OngoingRun) -> None:
        """Show a run that has just started."""
        self.shown, self.error = run, None
        self.runs.forget_message()

    def show_again(self, run: FinishedRun) -> None:
        """Show a finished run, whose settings the controls already have."""
        self.shown, self.error = run, None
        self.loaded = LiveSettings.of(self._state.config)
        self.runs.forget_message()

    def forget_error(self) -> None:
        """Clear the last run's error; a run without records disappears, too."""
        if self.error is not None:
            self.error = None
            if self.shown and not self.shown.records:
                self.shown = None

    def clear(self) -> None:
        """Show no run, and no earlier runs behind."""
        self.shown = self.error = None
        self.runs.clear()
        self.runs.forget_message()

    def put_away(self) -> None:
        """If the shown run has ended, move it to the store, to be drawn behind the next."""
        run = self.shown
        if not isinstance(run, OngoingRun) or run.running:
            return
        self.shown, self.error = self.shelf.add(run), run.error
        self.loaded = LiveSettings(run.live.beta, self._state.config.learning_rate)
        self.theories.shelve(self.shown.name)
        if run.records:
            self.runs.tick(self.shown.name)
        else:
            self.runs.refresh()

    def draw(self, *, at_rest: bool) -> None:
        """Redraw everything; the figure is skipped while the page is busy with the last drawing.

        Args:
            at_rest: Whether the run has just paused or ended: then the figure is not skipped.
        """
        if at_rest or not isinstance(self.shown, OngoingRun) or not self.figure.busy:
            self.figure.draw(self._spec())
        self.notice.value = notice(self._records(), self._theory, self._config.aims_at_optimum)
        samples = samples_panel(self.shown.samples if self.shown else [])
        if self.samples.value != samples:
            self.samples.value = samples

    def picture(self) -> go.Figure:
        """The current curves, as a figure for pages without a kernel."""
        return training_figure(self._records(), **self._around())

    def _records(self) -> History:
        return self.shown.records if self.shown else History()

    def _spec(self) -> dict[str, Any]:
        return training_spec(self._records(), **self._around())

    def _around(self) -> dict[str, Any]:
        """Arguments of the figure besides the records."""
        records, shown = self._records(), self.shown
        config = self._config
        current = shown and (shown.folder.name if shown.folder else getattr(shown, "name", None))
        behind = [name for name in self.runs.ticked if name != current]
        return {
            "start_loss": start_loss(config, records),
            "former": self.shelf.former(behind, config.method),
            "theory": self._theory,
            "aims_at_optimum": config.aims_at_optimum,
        }

    @property
    def _config(self) -> TrainConfig:
        """Configuration of the shown run, or of the next one."""
        return self.shown.config if self.shown else self._state.config

    @property
    def _theory(self) -> FrontierCurve | None:
        """The exact frontier of the shown run, if it is known."""
        if isinstance(self.shown, FinishedRun):
            return self.theories.of(self.shown.name)
        return self.theories.current if self.shown else None
