"""A run in the terminal: a live table and progress bar, and what changed at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from dpo_lab.cli.output import plain, say
from dpo_lab.training.callbacks import Callback, State
from dpo_lab.training.records import SampleRecord, StepRecord

if TYPE_CHECKING:
    from dpo_lab.training.setup import Job

ROWS = 12
SILENCE = 10.0
"""Seconds between signs of life where the output is no terminal."""
COLUMNS = (
    ("step", "step", "d"),
    ("loss", "loss", ".4f"),
    ("held-out loss", "eval/loss", ".4f"),
    ("margin", "rewards/margins", "+.3f"),
    ("chosen", "logratios/chosen", "+.2f"),
    ("rejected", "logratios/rejected", "+.2f"),
    ("accuracy", "eval/rewards/accuracies", ".2f"),
    ("KL", "kl/per_token", ".3f"),
    ("score", "score/policy", "+.2f"),
)
"""Heading, key and format of the table; `chosen` and `rejected` are log-ratios in nats."""


class TerminalDisplay(Callback):
    """Shows a run as it goes: live on a terminal, a line an evaluation elsewhere.

    Args:
        console: Where to show it.
    """

    def __init__(self, console: Console):
        self.console = console
        self.rows: list[StepRecord] = []
        self.last: StepRecord | None = None
        self.bar = _bar()
        self.training = False
        self.spoken = time.monotonic()
        self.live: Live | None = None
        self.task: TaskID | None = None

    def _wait_outside_training(self, what: str, done: int, total: int) -> None:
        """A bar alone."""
        if not self.console.is_terminal:
            self._speak(f"{what}: {done}/{total}")
            return
        if self.live is None:
            self.bar = _bar()
            self.task = self.bar.add_task(what, total=total, note="")
            self._open()
        self.bar.update(self.task, description=what, completed=done, total=total)
        if done >= total:
            self.close()

    def on_start(self, job: Job, first_step: int, total_steps: int) -> None:
        """Begin the table."""
        self.training = True
        self.bar = _bar()
        self.task = self.bar.add_task("training", total=total_steps, completed=first_step, note="")
        if self.console.is_terminal:
            self._open()
        else:
            self.console.print(" ".join(f"{title:>13}" for title, _, _ in COLUMNS))

    def on_wait(self, what: str, done: int, total: int) -> None:
        """Say what it is at: beside the steps' bar while there is one, else in a bar of its own."""
        if not total:
            say(what)
            return
        if not self.training:
            self._wait_outside_training(what, done, total)
            return
        self.bar.update(self.task, description=f"{what} {done}/{total}")
        if not self.console.is_terminal:
            self._speak(f"{what}: {done}/{total}")

    def on_step(self, record: StepRecord) -> None:
        """Move the bar; add a row where there was an evaluation."""
        speed = record.timing.get("pairs_per_second")
        memory = record.timing.get("peak_memory_gb")
        note = f"{speed:.1f} pairs/s  {memory:.1f} GB  beta {record.beta:g}" if speed else ""
        self.bar.update(self.task, description="training", completed=record.step, note=note)
        self.last = record
        if record.get("eval/loss") is not None or record.get("kl/per_token") is not None:
            self.rows.append(record)
            if not self.console.is_terminal:
                cells = (_cell(record, key, form) for _, key, form in COLUMNS)
                self.console.print(" ".join(f"{cell:>13}" for cell in cells))
        elif not self.console.is_terminal:
            self._speak(f"step {record.step}  loss {record['loss']:.4f}  {note}")

    def on_end(self, state: State, error: BaseException | None) -> None:
        """Leave the table as it stands; what is waited for after it is a bar alone."""
        self.close()
        self.rows, self.last, self.training = [], None, False

    def _speak(self, line: str) -> None:
        """A line every `SILENCE` seconds, where nothing can be drawn."""
        if time.monotonic() - self.spoken >= SILENCE:
            self.spoken = time.monotonic()
            self.console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        """Stop drawing; what was drawn stays."""
        if self.live is not None:
            self.live.stop()
            self.live, self.task = None, None

    def _open(self) -> None:
        # A new one each time: begun again, the old one would first wipe what it left.
        self.live = Live(console=self.console, refresh_per_second=5, get_renderable=self._render)
        self.live.start()

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title, _, _ in COLUMNS:
            table.add_column(title, justify="right")
        shown = self.rows[-ROWS:]
        if self.last and self.last not in shown:
            shown = [*shown, self.last]
        for record in shown:
            table.add_row(*(_cell(record, key, form) for _, key, form in COLUMNS))
        return Group(table, self.bar) if shown else Group(self.bar)


def print_outcome(
    console: Console, summary: Mapping[str, Any], samples: Sequence[SampleRecord]
) -> None:
    """What changed: scores before and after with their 95 % interval, and the last answers.

    Args:
        console: Where to print.
        summary: Of a run, as in `summary.json`.
        samples: Answers of the last evaluation.
    """
    if samples:
        table = Table("prompt", "reference", "policy", title="Answers before and after, greedy")
        for sample in samples:
            table.add_row(*map(plain, (sample.prompt, *sample.shown)))
        console.print(table)
    if summary.get("outcome"):
        console.print(f"[bold]Score[/bold], {escape(summary['outcome']['what'])}:")
        for who in ("before", "after"):
            score = summary["outcome"][who]
            console.print(
                f"  {who:<7}{score['mean']:.3f}  (95 % interval {score['low']:.3f} to "
                f"{score['high']:.3f}, n = {score['n']})"
            )


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )


def _cell(record: StepRecord, key: str, form: str) -> str:
    value = record.get(key)
    at_least = "≥" if key == "kl/per_token" and record.get("kl/cut") else ""
    return "" if value is None else at_least + format(value, form)
