"""Data panel of the workbench: reads the selected data in a thread, before a run starts."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import ipywidgets as widgets

from dpo_lab.data.preferences import Preferences
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.job import Job
from dpo_lab.training.setup import load_data
from dpo_lab.training.start_or_resume import data_facts
from dpo_lab.ui.html.data_list import data_fold
from dpo_lab.ui.html.tables import escaped
from dpo_lab.ui.workbench.state import WorkbenchState, in_effect

SOURCE = ("data", "split", "held_out", "eval_pairs", "columns", "limit", "seed")
"""Settings that decide which rows are read and how they are split."""


class DataPanel:
    """Reads the data that the settings name, before a run starts, and shows what it found.

    Local data is read in a thread whenever one of its settings changes; a data set of the hub is
    read when a run needs it.

    Args:
        state: The workbench's settings.
        data: Pairs or rows in memory, instead of `state.config.data`.

    Attributes:
        view: The panel.
    """

    def __init__(self, state: WorkbenchState, data: Preferences | Iterable[Mapping] | None = None):
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
        """Show what a prepared run really uses, after tokenisation."""
        with self._guard:
            self._asked = None
            self.view.value = data_fold(data_facts(job))
        self.wait()

    def wait(self) -> None:
        """Wait until nothing is being read."""
        if thread := self._thread:
            thread.join()

    def close(self) -> None:
        """Stop reading."""
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
        """Read the data asked for last, until there is no newer request; then end the thread."""
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
            measured = min(len(held_out), in_effect(config, "eval_pairs"))
        except (ValueError, OSError) as error:
            return f"<p class='dpo-problem'>{escaped(error)}</p>"
        reports = [split.report.as_dict() for split in (train, held_out) if len(split)]
        pairs = {"train": len(train), "held_out": measured, "prompts": len(held_out.prompts)}
        return data_fold({"pairs": pairs, "load_reports": reports})


def _on_the_hub(name: str) -> bool:
    """Whether a name can only be that of a data set on the hub."""
    local = Path(name).expanduser().exists() or name.startswith((".", "/", "~"))
    return name.count("/") == 1 and not local
