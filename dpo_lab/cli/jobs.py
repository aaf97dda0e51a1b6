"""Training from the command line: signals, load reports, what changed, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from dpo_lab.analysis.frontier_curve import beyond
from dpo_lab.cli.launch import end_with_the_launcher
from dpo_lab.cli.signals import on_signals
from dpo_lab.cli.terminal import TerminalDisplay, print_outcome
from dpo_lab.models.model_settings import Strategy
from dpo_lab.models.processes import join_processes, launched, leave_processes
from dpo_lab.training.callbacks import Callback, State
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.control import RunControl
from dpo_lab.training.files import check_writable
from dpo_lab.training.history import History
from dpo_lab.training.job import Job
from dpo_lab.training.run_folders import give_back, new_folder
from dpo_lab.training.run_job import run_job
from dpo_lab.training.runs import Run
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
    out: Path | None,
    *,
    resume: bool,
    changes: Mapping[str, float],
    strategy: Strategy,
    console: Console,
    report_to: Sequence[str] = (),
) -> None:
    """Prepare, train with a live table, measure what changed, write the report.

    If a launcher has started several processes, each calls this; the first one alone speaks.

    Args:
        config: What to run.
        out: Folder of the run; by default a new one.
        resume: Whether a run that is there goes on.
        changes: Beta or peak learning rate of the steps to come, where they are to be others.
        strategy: What several processes divide, see `prepare`.
        console: Where the run is shown.
        report_to: Trackers that get its numbers, see `tracker_callbacks`.
    """
    control = RunControl()
    if launched() > 1:
        end_with_the_launcher(control.stop)
    processes = join_processes()
    if not processes.first:
        console = Console(quiet=True)
    if report_to:
        from dpo_lab.training.report_to import ReportTo, tracker_callbacks

        tracker_callbacks(report_to)  # raises before anything is loaded
    folder = out or processes.from_first(lambda: new_folder(config))
    try:
        processes.from_first(lambda: check_writable(folder))
        run = Run(folder)
        if processes.from_first(lambda: resume and run.finished):
            run.check_changes(changes)
            console.print(f"{folder}: this run is done.", markup=False)
            leave_processes()
        else:
            attended = _Attended(console, control)
            shown = (
                [TerminalDisplay(console, config.method), attended]
                if processes.first
                else [attended]
            )
            if report_to:
                shown.append(ReportTo(report_to, folder))
            ended = run_job(
                config,
                folder,
                resume=resume,
                changes=changes,
                strategy=strategy,
                control=control,
                callbacks=shown,
            )
            leave_processes()
            if ended.state == "stopped":
                say_how = f"Stopped. Go on with: dpo-lab train --resume --out {folder}"
                console.print(say_how, markup=False)
                raise SystemExit(128 + attended.signal if attended.signal else 0)
        if processes.first:
            _report(run, console)
    finally:
        if out is None and processes.first:
            give_back(folder)


def _report(run: Run, console: Console) -> None:
    """What changed, and where to look."""
    print_outcome(console, run.summary, run.last_samples())
    if longer := beyond(History(run.records())):
        console.print(longer, markup=False, highlight=False)
    console.print(f"Run     {run.path}", markup=False, soft_wrap=True)
    console.print(f"Report  {report_of(run)}", markup=False, soft_wrap=True)
