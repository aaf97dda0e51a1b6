"""The command that looks at data before any training."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from dpo_lab.cli.arguments import SAID, Flag
from dpo_lab.cli.output import new_console, plain, say
from dpo_lab.cli.settings import Boxes, given, options

if TYPE_CHECKING:
    from dpo_lab.data.preflight.findings import Finding
    from dpo_lab.training.preflight import PreFlight

NAMES = (
    "model", "data", "split", "held_out", "steps", "epochs", "batch_pairs", "micro_batch_tokens",
    "optimizer", "lora_rank", "lora_alpha", "lora_targets", "max_length", "max_prompt_length",
    "prompt_format", "chat_template", "score_turns", "thinking", "template_date", "columns",
    "max_gz_gb", "seed", "device", "revision", "trust_remote_code",
)  # fmt: skip
"""Settings of a run on which its data and its cost depend."""
Settings = Annotated[
    Boxes, tyro.conf.arg(name="", constructor_factory=partial(options, names=NAMES))
]
COLOURS = {"serious": "bold red", "warning": "yellow", "note": "dim"}


@dataclass(frozen=True)
class Check:
    """Look at preference pairs before any training: what is lost, wrong, repeated or too easy.

    Rows that cannot be used and why; lengths and what --max-length cuts; held-out prompts that
    nearly equal one that is trained on; pairs with both labels; end tokens and chat markup in the
    text; rules that are right by length or form alone; and what the run would cost. No weights are
    loaded, and memory does not grow with the data.
    """

    settings: Settings
    rows: Annotated[int | None, SAID] = None
    """Look at only the first so many rows of each split, by default all."""
    out: Annotated[Path | None, SAID] = None
    """Also write what was found as a page, to this HTML file."""
    rows_out: Annotated[Path | None, SAID] = None
    """Also write the number of every row of every finding, a line of JSON each, so that they can be
    taken out; notes and rules apart."""
    clean_out: Annotated[Path | None, SAID] = None
    """Also write the rows that nothing is wrong with, as train.jsonl and test.jsonl in this
    folder, which train takes as --data."""
    processes: Annotated[int | None, SAID] = None
    """How many processes share the work on a large data set, by default one per core, at most 8."""
    no_cost: Flag = False
    """Leave out the estimate of memory and time."""
    strict: Flag = False
    """Exit with code 1 if a finding is serious."""
    json: Flag = False
    """One JSON object instead of text."""

    def __call__(self) -> None:
        """Print what was found."""
        from dpo_lab.training.preflight import check_data

        settings = given(self.settings)
        data, model = settings.pop("data", "reviews"), settings.pop("model", "micro")
        processes = min(os.cpu_count() or 1, 8) if self.processes is None else self.processes
        if processes < 1:
            raise ValueError(f"--processes {processes}: must be at least 1.")
        with _Bar(new_console(stderr=True)) as bar:
            found = check_data(
                data,
                model,
                rows=self.rows,
                cost=not self.no_cost,
                processes=processes,
                rows_out=self.rows_out,
                clean_out=self.clean_out,
                progress=bar.follow,
                **settings,
            )
        if self.json:
            print(json.dumps(found.as_dict()))
        else:
            print_check(new_console(), found)
        if found.data.cleaned:
            train, test = found.data.cleaned
            say(f"clean rows: {train:,} to train on and {test:,} held out, in {self.clean_out}")
        if self.out:
            from dpo_lab.ui.preflight.page import write_page

            say(f"page: {write_page(self.out, found)}")
        if self.strict and found.data.serious:
            raise SystemExit(1)


class _Bar(Progress):
    """Says what is done, and how far; of rows the total is not known."""

    def __init__(self, console: Console):
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}")
        super().__init__(
            *columns,
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._what, self._number = "", TaskID(0)

    def follow(self, what: str, done: int, total: int) -> None:
        """Show where it is."""
        if what != self._what:
            if self._what:
                self.update(self._number, total=1, completed=1)
            self._what, self._number = what, self.add_task(what, total=None, done="")
        text = f"{done:,}" if done and not total else f"{done}/{total}" if total else ""
        self.update(self._number, completed=done, total=total or None, done=text)


def print_check(console: Console, found: PreFlight) -> None:
    """Print what was found: counts, lengths, findings, cost."""
    console.print(str(found.data), highlight=False)
    lengths = Table("tokens", *("median", "90 %", "99 %", "longest"), "above --max-length")
    for part, one in found.data.lengths.items():
        above = one.above(found.config.max_length) if part == "pair" else None
        numbers = *(one.quantile(share) for share in (0.5, 0.9, 0.99)), one.longest
        lengths.add_row(
            "pair (prompt and longer response)" if part == "pair" else part,
            *(f"{number:,}" for number in numbers),
            "" if above is None else f"{above:,}",
        )
    console.print(lengths)
    for finding in found.data.findings:
        _print_finding(console, finding)
    if not found.data.findings:
        console.print("Nothing was found.")
    console.print(cost_words(found), highlight=False)


def _print_finding(console: Console, finding: Finding) -> None:
    head = Text(f"\n{finding.severity.upper():<8}", COLOURS[finding.severity])
    count = f"{finding.count:,} of {finding.of:,} ({finding.share:.1%})"
    console.print(head + Text(f" {finding.title}: ", "bold") + Text(count))
    for one in finding.examples:
        line = plain(f"  {one.where}: " if one.row else "  ").append_text(plain(one.text))
        if one.beside:
            line.append_text(Text(" | ", "dim")).append_text(plain(one.beside))
        console.print(line, overflow="fold")
    console.print(Text(f"  → {finding.fix}", "italic"))


def cost_words(found: PreFlight) -> str:
    """What a run takes, as a sentence."""
    if found.cost is None:
        return f"\nCost: not estimated ({found.why_no_cost})." if found.why_no_cost else ""
    cost = found.cost
    return (
        f"\nCost by the first pairs: {cost.steps:,} steps of {cost.step_seconds:.2g} s on this "
        f"{cost.device}, {_duration(cost.seconds)} in all, {cost.memory_gb:.1f} GB at its peak; "
        "evaluations and samples come on top."
    )


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:.1f} {unit}"
    return f"about {seconds:.0f} s"
