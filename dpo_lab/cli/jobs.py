"""Training from the command line: signals, load reports, what changed, report."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from dpo_lab.analysis.frontier_curve import beyond
from dpo_lab.cli.signals import on_signals
from dpo_lab.cli.terminal import TerminalDisplay, print_outcome
from dpo_lab.training.callbacks import Callback, State
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.control import RunControl
from dpo_lab.training.files import check_writable
from dpo_lab.training.history import History
from dpo_lab.training.run_job import run_job
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import Job
from dpo_lab.ui.report.summary import report_of


class _Attended(Callback):
    """Says what was read, and ends training after its step at the first signal."""

    def __init__(self, console: Console, control: RunControl):
        self.console, self.control = console, control
        self.signal = 0
        self._heard = ExitStack()

    def on_prepared(self, job: Job) -> None:
        use = job.cache_use
        reference = f"reference log-probabilities: {use.computed} computed, {use.cached} from cache"
        for line in dict.fromkeys((*map(str, job.load_reports), str(job.train.tokens), reference)):
            self.console.print(line, markup=False, highlight=False)

    def on_start(self, job: Job, first_step: int, total_steps: int) -> None:
        self._heard.enter_context(on_signals(self._stop))  # a second one ends it at once

    def on_end(self, state: State, error: BaseException | None) -> None:
        self._heard.close()

    def _stop(self, number: int) -> None:
        self.signal = number
        self.control.stop()


def train_and_report(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool,
    changes: Mapping[str, float],
    console: Console,
) -> None:
    """Prepare, train with a live table, measure what changed, write the report.

    Args:
        config: What to run.
        out: Folder of the run.
        resume: Whether a run that is there goes on.
        changes: Beta or peak learning rate of the steps to come, where they are to be others.
        console: Where the run is shown.
    """
    check_writable(out)
    run = Run(out)
    if resume and run.finished:
        run.check_changes(changes)
        console.print(f"{out}: this run is done.", markup=False)
    else:
        control = RunControl()
        attended = _Attended(console, control)
        shown = [TerminalDisplay(console), attended]
        ended = run_job(
            config, out, resume=resume, changes=changes, control=control, callbacks=shown
        )
        if ended.state == "stopped":
            console.print(f"Stopped. Go on with: dpo-lab train --resume --out {out}", markup=False)
            raise SystemExit(128 + attended.signal)
    print_outcome(console, run.summary, run.last_samples())
    if longer := beyond(History(run.records())):
        console.print(longer, markup=False, highlight=False)
    console.print(f"Run     {out}", markup=False, soft_wrap=True)
    console.print(f"Report  {report_of(run)}", markup=False, soft_wrap=True)
