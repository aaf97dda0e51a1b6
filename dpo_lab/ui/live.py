"""A figure that follows a run: drawn by one thread that never takes much of the run's time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dpo_lab.ui.style import CONFIG

PERIOD = 0.2
"""Seconds between drawings at least."""
SHARE = 0.02
"""Most of the time that drawing takes: what is slow to draw is drawn less often."""


PATIENCE = 2.0
"""Seconds after which a page that does not answer is drawn for again."""
_ANSWERS = {"_js2py_traceDeltas", "_js2py_layoutDelta"}


class LiveFigure(go.FigureWidget):
    """A figure that takes what changed from one specification to the next.

    Messages from the page and drawings come in threads of their own; a lock keeps them apart.

    Args:
        spec: `data` and `layout`; every later one must have as many traces, in the same order.
    """

    def __init__(self, spec: dict[str, Any]):
        self._guard = threading.RLock()
        self._drawn = spec
        self._sent_at = self._answered_at = 0.0
        super().__init__(data=spec["data"], layout=spec["layout"] | {"autosize": True})
        self._config = CONFIG

    def _handle_msg(self, message) -> None:
        state = message["content"]["data"].get("state", {})
        if _ANSWERS & state.keys():
            # After every drawing the page tells all that it filled in: long, and of no use here.
            self._answered_at = time.perf_counter()
            return
        with self._guard:
            super()._handle_msg(message)

    @property
    def busy(self) -> bool:
        """Whether a page is still drawing, or has not rested as long as its last drawing took."""
        if not self._view_count:
            return False
        now, took = time.perf_counter(), self._answered_at - self._sent_at
        return now < (self._answered_at + took if took > 0 else self._sent_at + PATIENCE)

    def draw(self, spec: dict[str, Any]) -> None:
        """Show a specification: whole arrays of the traces that changed, and nothing else."""
        self._sent_at = time.perf_counter()
        with self._guard, self.batch_update():
            before, self._drawn = self._drawn, spec
            for trace, old, new in zip(self.data, before["data"], spec["data"], strict=True):
                changed = {} if new is old else _changed(old, new)
                if changed:
                    trace.update(changed, overwrite=True)
            changed = _changed(before["layout"], spec["layout"])
            changed.pop("template", None)
            if changed:
                self.layout.update(changed, overwrite=True)

    def fit(self) -> None:
        """Take the width that the page has now: it may have changed since it was shown."""
        with self._guard:
            self._send_relayout_msg({"autosize": True})

    def settle(self) -> None:
        """Make what is shown the state that a reloaded page gets: changes alone do not reach it."""
        with self._guard:
            self._widget_data = [trace.to_plotly_json() for trace in self.data]
            self._widget_layout = self.layout.to_plotly_json()


class Ticker(threading.Thread):
    """Calls a function now and then until told to end, and once more then.

    Args:
        work: Called in this thread. The first that it raises is kept, and it is called again.
    """

    def __init__(self, work: Callable[[], None]):
        super().__init__(name="dpo-lab drawing", daemon=True)
        self.error: BaseException | None = None
        self._work = work
        self._over = threading.Event()
        self._hurry = threading.Event()

    def hurry(self) -> None:
        """Do not wait for the next turn."""
        self._hurry.set()

    def end(self) -> None:
        """Work once more, and end."""
        self._over.set()
        self._hurry.set()

    def run(self) -> None:
        """The thread's work."""
        over = False
        while not over:
            over = self._over.is_set()
            started = time.perf_counter()
            self._hurry.clear()
            try:
                self._work()
            except Exception as error:
                self.error = self.error or error
            took = time.perf_counter() - started
            if not over and not self._over.is_set():
                self._hurry.wait(max(PERIOD, took / SHARE))


def _changed(old: dict, new: dict) -> dict:
    """Entries of the new that differ, and none for those that are gone."""
    changed = {key: value for key, value in new.items() if not _same(old.get(key), value)}
    return changed | dict.fromkeys(old.keys() - new.keys())


def _same(old: Any, new: Any) -> bool:
    if isinstance(new, np.ndarray):
        return isinstance(old, np.ndarray) and np.array_equal(old, new, equal_nan=True)
    if isinstance(new, dict):
        same_keys = isinstance(old, dict) and old.keys() == new.keys()
        return same_keys and all(_same(old[key], value) for key, value in new.items())
    return old == new
