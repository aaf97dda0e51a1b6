"""Training from the command line: folder, resume, signals, what changed, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from dpo_lab.analysis.frontier_curve import beyond
from dpo_lab.cli.signals import on_signals
from dpo_lab.cli.terminal import TerminalDisplay, print_outcome
from dpo_lab.models.builtin import builtin_model
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.control import RunControl
from dpo_lab.training.files import check_writable
from dpo_lab.training.history import History
from dpo_lab.training.loop import train
from dpo_lab.training.outcome import measure_outcome
from dpo_lab.training.runs import Run, open_or_create
from dpo_lab.training.setup import prepare
from dpo_lab.ui.report.summary import report_of


def train_and_report(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool,
    changes: Mapping[str, float],
    console: Console,
    say: Callable[[str], None],
) -> None:
    """Prepare, train with a live table, measure what changed, write the report.

    Args:
        config: What to run.
        out: Folder of the run.
        resume: Whether a run that is there goes on.
        changes: Beta or peak learning rate of the steps to come, where they are to be others.
        console: Where the run is shown.
        say: Told what is being done before the run begins.
    """
    check_writable(out)
    run = Run(out)
    if not (resume and run.exists):
        run.check_free()
    else:
        run.check_changes(changes)
    if run.exists and run.summary["state"] == "done" and "outcome" in run.summary:
        console.print(f"{out}: this run is done.", markup=False)
    else:
        display = TerminalDisplay(console)
        builtin_model(config.model, report=say)
        job = prepare(config, progress=display.waiting)
        use = job.cache_use
        reference = f"reference log-probabilities: {use.computed} computed, {use.cached} from cache"
        for line in dict.fromkeys((*map(str, job.load_reports), str(job.train.tokens), reference)):
            console.print(line, markup=False, highlight=False)
        run = open_or_create(run, job, resume=resume)
        if job.score:
            job.reference.keep()  # its answers are scored at the end
        control, signals = RunControl(), []
        control.set(**changes)
        # The first ends the run after its step, a second at once.
        with on_signals(lambda number: (signals.append(number), control.stop())):
            for _ in train(job, run=run, control=control, callbacks=[display]):
                pass
        if run.summary["state"] == "stopped":
            console.print(f"Stopped. Go on with: dpo-lab train --resume --out {out}", markup=False)
            raise SystemExit(128 + signals[0])
        outcome = measure_outcome(job, display.waiting)
        run.finish({"outcome": outcome and outcome.as_dict()})
    print_outcome(console, run.summary, run.last_samples())
    if longer := beyond(History(run.records())):
        console.print(longer, markup=False, highlight=False)
    console.print(f"Run     {out}", markup=False, soft_wrap=True)
    console.print(f"Report  {report_of(run)}", markup=False, soft_wrap=True)
