"""What became of the rows of a data set: used, held out, skipped and why, repeated, unused."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from dpo_lab.data.preferences import TRAINED_ON, Preferences
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.runs import data_facts
from dpo_lab.training.setup import Job, load_data
from dpo_lab.ui.samples import escaped
from dpo_lab.ui.state import WorkbenchState

SOURCE = ("data", "split", "held_out", "eval_pairs", "columns", "limit", "seed")
"""Settings that decide which rows are read and how they are divided."""


def data_list(facts: Mapping[str, Any]) -> str:
    """Counts of a run's data, then what was left out or unused, with row numbers, as HTML.

    Args:
        facts: Of a run, as `dpo_lab.training.runs.data_facts` gives them and `environment.json`
            keeps them; an older run's may lack any of them.
    """
    lines = [_counts(facts["pairs"])] if facts.get("pairs") else []
    for report in _distinct(facts.get("load_reports") or ()):
        lines += _about(report)
    if not facts.get("load_reports"):
        lines += [escaped(line) for line in dict.fromkeys(facts.get("data") or ())]
    if facts.get("tokens"):
        lines.append(escaped(facts["tokens"]) + _listed(facts.get("token_problems") or (), 0))
    return f"<ul class='data'>{''.join(f'<li>{line}</li>' for line in lines)}</ul>" * bool(lines)


def data_fold(facts: Mapping[str, Any]) -> str:
    """The same under its first line, open where rows are not used."""
    not_used = sum(
        sum(report["skipped"].values()) for report in _distinct(facts.get("load_reports") or ())
    )
    head = f"Data: {_counts(facts['pairs'])}"
    head += f", <b class='dpo-warning'>{_many(not_used, 'row')} not used</b>" * (not_used > 0)
    rest = data_list({**facts, "pairs": None})
    return f"<details{' open' * (not_used > 0)}><summary>{head}</summary>{rest}</details>"


def _distinct(reports: Sequence[Mapping]) -> list[Mapping]:
    """Each once: where a share of one source is held out, both sides have the report of it all."""
    return [report for i, report in enumerate(reports) if report not in reports[:i]]


def _counts(pairs: Mapping[str, int]) -> str:
    words = f"<b>{_many(pairs['train'], 'pair')} to train on</b>"
    if pairs["held_out"]:
        words += f", {_many(pairs['held_out'], 'held-out pair')} to measure on"
    if pairs["prompts"]:
        words += f", {_many(pairs['prompts'], 'held-out prompt')} to answer"
    return words + ", nothing is held out" * (not pairs["held_out"] and not pairs["prompts"])


def _about(report: Mapping[str, Any]) -> list[str]:
    source, rows, kept = escaped(report["source"]), report["rows"], report["kept"]
    lines = [f"{source}: {_many(kept, 'pair')} from {_many(rows, 'row')}"]
    skipped = sum(report["skipped"].values())
    if skipped:
        reasons = ", ".join(f"{n:,} {escaped(why)}" for why, n in report["skipped"].items())
        problems = report["problems"]
        more = skipped - report["skipped"].get(TRAINED_ON, 0) - len(problems)
        lines[0] += f", <b>{_many(skipped, 'row')} not used</b>: {reasons}"
        lines[0] += _listed(problems, more)
    repeats = (
        ("duplicates", "the same as an earlier row"),
        ("alike", "the same as an earlier row in all that is used"),
    )
    for name, words in repeats:
        found = report.get(name) or {"count": 0}
        if found["count"]:
            numbers = ", ".join(map(str, found["rows"]))
            more = found["count"] - len(found["rows"])
            numbers += f" and {more:,} more" * (more > 0)
            lines.append(f"{_many(found['count'], 'row')} {words}: {numbers}")
    for name, words in (("unused_columns", "columns"), ("unused_fields", "message fields")):
        if report.get(name):
            each = (
                f"<b>{escaped(column or '(no name)')}</b> ({_many(count, 'row')})"
                for column, count in report[name].items()
            )
            lines.append(f"{words} that nothing uses: {', '.join(each)}")
    return lines


def _listed(problems: Sequence[Mapping[str, Any]], more: int) -> str:
    """Problems by row number, one a line."""
    lines = []
    for problem in problems:
        column = f", {problem['column']!r}" if problem["column"] else ""
        detail = f" ({problem['detail']})" if problem["detail"] else ""
        lines.append(f"row {problem['row']}{column}: {problem['reason']}{detail}")
    lines += [f"and {more:,} more"] * (more > 0)
    return f"<ul>{''.join(f'<li>{escaped(line)}</li>' for line in lines)}</ul>" * bool(lines)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


class DataPanel:
    """Reads the data that the settings name, before anything is trained, and shows what it found.

    What lies on this machine is read in a thread of its own whenever a setting that names it is
    changed; a data set of the hub is read once a run needs it.

    Args:
        state: The workbench's settings.
        data: Pairs or rows in memory, instead of `state.config.data`.

    Attributes:
        view: The panel.
    """

    def __init__(self, state: WorkbenchState, data: Preferences | Sequence[dict] | None = None):
        self._state, self._data = state, data
        self._guard = threading.Lock()
        self._open = True
        self._asked: TrainConfig | None = None
        self._reading = False
        self._thread: threading.Thread | None = None
        self.view = widgets.HTML().add_class("dpo-data")
        self._ask(state.config)
        state.observe(self._changed, "config")

    def show(self, job: Job) -> None:
        """What a run that is prepared really uses, tokenised."""
        with self._guard:
            self._asked = None
            self.view.value = data_fold(data_facts(job))
        self.wait()

    def wait(self) -> None:
        """Until nothing is being read."""
        if thread := self._thread:
            thread.join()

    def close(self) -> None:
        """Read no more."""
        if self._open:
            self._open = False
            self._state.unobserve(self._changed, "config")
        with self._guard:
            self._asked = None
        self.wait()

    def _changed(self, change) -> None:
        old, new = change["old"], change["new"]
        if any(getattr(old, name) != getattr(new, name) for name in SOURCE):
            self._ask(new)

    def _ask(self, config: TrainConfig) -> None:
        with self._guard:
            self._asked = config
            if not self._reading:
                self._reading = True
                self._thread = threading.Thread(target=self._work, name="dpo-lab data", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        """Read what was asked for last, again while that changes; then the thread ends."""
        read, words = None, ""
        while True:
            with self._guard:
                if read is not None and self._asked is read:
                    self._asked, self.view.value = None, words
                if self._asked is None:
                    self._reading = False
                    return
                read = self._asked
            words = self._read(read)

    def _read(self, config: TrainConfig) -> str:
        if self._data is None and _on_the_hub(config.data):
            return f"<p class='note'>{escaped(config.data)} is read when training begins.</p>"
        try:
            train, held_out = load_data(replace(config, on_bad_rows="skip"), self._data)
            measured = min(len(held_out), config.resolved().eval_pairs)
        except (ValueError, OSError) as error:
            return f"<p class='dpo-problem'>{escaped(error)}</p>"
        reports = [some.report.as_dict() for some in (train, held_out) if len(some)]
        pairs = {"train": len(train), "held_out": measured, "prompts": len(held_out.prompts)}
        return data_fold({"pairs": pairs, "load_reports": reports})


def _on_the_hub(name: str) -> bool:
    """Whether a name can only be that of a data set on the hub."""
    here = Path(name).expanduser().exists() or name.startswith((".", "/", "~"))
    return name.count("/") == 1 and not here
