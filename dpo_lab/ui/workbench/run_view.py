"""What a workbench shows of a run: its curves, what they mean, its answers, the runs beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go

from dpo_lab.analysis.frontier_curve import FrontierCache, FrontierCurve
from dpo_lab.training.background import BackgroundRun
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.history import History
from dpo_lab.training.live_settings import LiveSettings
from dpo_lab.ui.figures.training_figure import training_figure, training_spec
from dpo_lab.ui.html.run_status import notice, samples_panel
from dpo_lab.ui.report.summary import start_loss
from dpo_lab.ui.widgets.live import LiveFigure
from dpo_lab.ui.workbench.run_store import FinishedRun, RunStore
from dpo_lab.ui.workbench.runs_table import RunsTable
from dpo_lab.ui.workbench.state import WorkbenchState


class RunView:
    """The parts of a workbench that follow the run that is shown.

    Whoever calls holds the workbench's lock.

    Args:
        state: The workbench's settings.
        folder: Where runs are kept.
        redraw: Called when other runs are ticked.
        show: Called with a run that a person wants to see again.

    Attributes:
        shown: The run that is shown: one that is going on, or one of the shelf.
        error: What it failed with.
        loaded: Beta and learning rate as it left them at the controls: none is the default.
        theories: The exact frontiers that are known.
    """

    def __init__(
        self,
        state: WorkbenchState,
        folder: Path | None,
        redraw: Callable[[], None],
        show: Callable[[FinishedRun], None],
    ):
        self._state = state
        self.shown: BackgroundRun | FinishedRun | None = None
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
        """idle, or the state of the run that is shown."""
        return "idle" if self.shown is None else self.shown.state

    def begin(self, run: BackgroundRun) -> None:
        """Show a run that begins."""
        self.shown, self.error = run, None
        self.runs.forget_message()

    def show_again(self, run: FinishedRun) -> None:
        """Show a run of the shelf, whose settings the controls have taken on."""
        self.shown, self.error = run, None
        self.loaded = LiveSettings.of(self._state.config)
        self.runs.forget_message()

    def forget_error(self) -> None:
        """Say no more what the last run failed with; one that measured nothing goes, too."""
        if self.error is not None:
            self.error = None
            if self.shown and not self.shown.records:
                self.shown = None

    def clear(self) -> None:
        """Show no run, and none behind."""
        self.shown = self.error = None
        self.runs.clear()
        self.runs.forget_message()

    def put_away(self) -> None:
        """The run that is shown joins the others once it has ended, to be drawn behind the next."""
        run = self.shown
        if not isinstance(run, BackgroundRun) or run.running:
            return
        self.shown, self.error = self.shelf.add(run), run.error
        self.loaded = LiveSettings(run.live.beta, self._state.config.learning_rate)
        self.theories.shelve(self.shown.name)
        if run.records:
            self.runs.tick(self.shown.name)
        else:
            self.runs.refresh()

    def draw(self, *, at_rest: bool) -> None:
        """All of it as it stands; a page that is still busy with the last drawing is spared.

        Args:
            at_rest: Whether the run has just paused or ended: then it is drawn in any case.
        """
        if at_rest or not isinstance(self.shown, BackgroundRun) or not self.figure.busy:
            self.figure.draw(self._spec())
        self.notice.value = notice(self._records(), self._theory, self._config.aims_at_optimum)
        samples = samples_panel(self.shown.samples if self.shown else [])
        if self.samples.value != samples:
            self.samples.value = samples

    def picture(self) -> go.Figure:
        """The curves as they stand, as a figure for pages without a kernel."""
        return training_figure(self._records(), **self._around())

    def _records(self) -> History:
        return self.shown.records if self.shown else History()

    def _spec(self) -> dict[str, Any]:
        return training_spec(self._records(), **self._around())

    def _around(self) -> dict[str, Any]:
        """What is drawn around the records."""
        records, shown = self._records(), self.shown
        config = self._config
        own = shown and (shown.folder.name if shown.folder else getattr(shown, "name", None))
        behind = [name for name in self.runs.ticked if name != own]
        return {
            "start_loss": start_loss(config, records),
            "former": self.shelf.former(behind),
            "theory": self._theory,
            "aims_at_optimum": config.aims_at_optimum,
        }

    @property
    def _config(self) -> TrainConfig:
        """Of the run that is shown, or of the next."""
        return self.shown.config if self.shown else self._state.config

    @property
    def _theory(self) -> FrontierCurve | None:
        """The exact frontier of the run that is shown, where it is known."""
        if isinstance(self.shown, FinishedRun):
            return self.theories.of(self.shown.name)
        return self.theories.current if self.shown else None
