"""A run in the terminal: a live table and progress bar, and what changed at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from dpo_lab.cli.output import plain, say
from dpo_lab.training.callbacks import Callback, State
from dpo_lab.training.records import SampleRecord, StepRecord

if TYPE_CHECKING:
    from dpo_lab.training.job import Job

Columns = tuple[tuple[str, str, str], ...]
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
SAMPLED_COLUMNS = (
    ("step", "step", "d"),
    ("reward", "on_policy/reward", "+.3f"),
    ("reward - βKL", "on_policy/objective", "+.3f"),
    ("entropy", "on_policy/entropy", ".2f"),
    ("tokens", "on_policy/tokens", ".1f"),
    ("equal", "on_policy/equal", ".0%"),
    *COLUMNS[-3:],
)
"""The same where the policy learns from its own answers."""


class _Bar(Progress):
    """A bar, below the rows of the evaluations.

    One for each stretch of work: begun again, an old one would first wipe what it left.
    """

    def __init__(
        self, console: Console, what: str, total: int, done: int = 0, columns: Columns = COLUMNS
    ):
        self.titles = columns
        self.rows: list[StepRecord] = []
        self.last: StepRecord | None = None
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            refresh_per_second=5,
            disable=not console.is_terminal,
        )
        self.task = self.add_task(what, total=total, completed=done, note="")
        self.start()

    def get_renderables(self) -> Iterator[RenderableType]:
        """What is drawn, each time."""
        shown = self.rows[-ROWS:]
        if self.last and self.last not in shown:
            shown.append(self.last)
        if shown:
            titles = (Column(title, justify="right") for title, _, _ in self.titles)
            table = Table(*titles, box=None, pad_edge=False, header_style="bold")
            for record in shown:
                table.add_row(*_cells(record, self.titles))
            yield table
        yield self.make_tasks_table(self.tasks)


class TerminalDisplay(Callback):
    """Shows a run as it goes: live on a terminal, a line an evaluation elsewhere.

    Args:
        console: Where to show it.
        method: The method of training.
    """

    def __init__(self, console: Console, method: str = "dpo"):
        self.console = console
        self.columns = COLUMNS if method in ("dpo", "sft") else SAMPLED_COLUMNS
        self.training = False
        self.spoken = time.monotonic()
        self.bar: _Bar | None = None

    def on_start(self, job: Job | None, first_step: int, total_steps: int) -> None:
        """Begin the table."""
        self.training = True
        self.bar = _Bar(self.console, "training", total_steps, first_step, self.columns)
        self._line(title for title, _, _ in self.columns)

    def on_wait(self, what: str, done: int, total: int) -> None:
        """Say what it is at: beside the steps' bar while there is one, else in a bar of its own."""
        if not total:
            say(what)
            return
        if self.training:
            self.bar.update(self.bar.task, description=f"{what} {done}/{total}")
        else:
            self.bar = self.bar or _Bar(self.console, what, total)
            self.bar.update(self.bar.task, description=what, completed=done, total=total)
        self._speak(f"{what}: {done}/{total}")
        if not self.training and done >= total:
            self.close()

    def on_step(self, record: StepRecord) -> None:
        """Move the bar; add a row where there was an evaluation."""
        speed = record.timing.get("pairs_per_second")
        memory = record.timing.get("peak_memory_gb")
        note = f"{speed:.1f} pairs/s  {memory:.1f} GB  beta {record.beta:g}" if speed else ""
        self.bar.update(self.bar.task, description="training", completed=record.step, note=note)
        self.bar.last = record
        if record.get("eval/loss") is not None or record.get("kl/per_token") is not None:
            self.bar.rows.append(record)
            self._line(_cells(record, self.columns))
        elif record.get("grad_norm") is not None:  # not before the first step
            name, key = "reward", "on_policy/reward"
            if record.get(key) is None:
                name = key = "loss"
            self._speak(f"step {record.step}  {name} {record[key]:.4f}  {note}")

    def on_end(self, state: State, error: BaseException | None) -> None:
        """Leave the table as it stands; what is waited for after it is a bar alone."""
        self.close()
        self.training = False

    def close(self) -> None:
        """Stop drawing; what was drawn stays."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _line(self, cells: Iterable[str]) -> None:
        """A row of the table, where nothing can be drawn."""
        if not self.console.is_terminal:
            self.console.print(" ".join(f"{cell:>13}" for cell in cells))

    def _speak(self, line: str) -> None:
        """A line every `SILENCE` seconds, where nothing can be drawn."""
        if not self.console.is_terminal and time.monotonic() - self.spoken >= SILENCE:
            self.spoken = time.monotonic()
            self.console.print(line, markup=False, highlight=False)


class SweepBars(Progress):
    """A bar for each run of a sweep that is going on; nothing where the output is no terminal.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console):
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=2,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bars: dict[str, TaskID] = {}

    def show(self, going: Mapping[str, Mapping[str, Any]]) -> None:
        """Move the bars.

        Args:
            going: The last sign of life of each run in progress, by its name.
        """
        for name in self._bars.keys() - going.keys():
            self.remove_task(self._bars.pop(name))
        for name, life in going.items():
            if name not in self._bars:
                self._bars[name] = self.add_task(name, total=None)
            if life:
                self.update(self._bars[name], completed=life["step"], total=life["total_steps"])


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


def _cells(record: StepRecord, columns: Columns) -> Iterator[str]:
    """A row of the table; nothing where nothing was measured."""
    for _, key, form in columns:
        value = record.get(key)
        at_least = "≥" if key == "kl/per_token" and record.get("kl/cut") else ""
        yield "" if value is None else at_least + format(value, form)
