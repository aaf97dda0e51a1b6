"""Live figure of a run, redrawn by one thread that takes only a small share of the run's time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dpo_lab.ui.figures.style import PLOTLY_CONFIG
from dpo_lab.ui.widgets.free_widgets import free
from dpo_lab.ui.widgets.plot_view import PlotView, Sheet, as_sent

PERIOD = 0.2
"""Minimum seconds between drawings."""
SHARE = 0.02
"""Maximum share of a run's time spent on drawing: a slow figure is drawn less often."""
LONGEST = 2.0
"""Maximum seconds between drawings, since a person waits for them."""
PATIENCE = 2.0
"""Seconds to wait for a page to report that it has drawn, before drawing again."""
LATE, TRIES = 5.0, 6
"""Seconds after which everything is sent again to a page that has not drawn, and how often."""
MUTE = 15.0
"""Seconds without any message from such a page, after which it is reported as failed."""
NOT_DRAWN = "the curves have not appeared on this page: reload it if they stay away"


class LiveFigure:
    """A figure on the page that is updated with only the traces that changed.

    A page that missed messages still gets the whole last specification: pieces carry version
    numbers, a page asks for the pieces that it lacks, and reports which version it has drawn.
    Messages from the page and drawings come in different threads; a lock keeps them apart.

    Args:
        spec: `data` and `layout`; every later one must have as many traces, in the same order.

    Attributes:
        view: The widget.
        trouble: What keeps the open page from showing the figure, in words.
        on_trouble: Called without arguments when `trouble` has changed.
    """

    def __init__(self, spec: dict[str, Any]):
        self._guard = threading.RLock()
        self._drawn = spec
        self._version = self._shown_version = 0
        self._sent_at = self._rests_until = self._heard_at = self._since = 0.0
        self._tries = 0
        self._watch: threading.Timer | None = None
        self._versions: dict[str, int] = {}
        self.trouble = ""
        self.on_trouble: Callable[[], None] = lambda: None
        pieces = {name: as_sent(piece) for name, piece in _pieces(spec).items()}
        self._sheet = Sheet(self._stamped(pieces | {"config": PLOTLY_CONFIG}), self._hear)
        # The view count is `None` by default, and a page then does not keep it.
        self.view = PlotView(sheet=self._sheet, _dom_classes=["dpo-figure"], _view_count=0)
        self.view.observe(self._opened, "_view_count")

    @property
    def data(self) -> tuple[Any, ...]:
        """The traces that were drawn last."""
        return go.Figure(self._drawn).data

    @property
    def layout(self) -> go.Layout:
        """The layout that was drawn last."""
        return go.Figure(self._drawn).layout

    @property
    def busy(self) -> bool:
        """Whether a page is drawing, or has not yet paused for as long as its last drawing took."""
        if not self.view.pages:
            return False
        drawing = self._shown_version != self._version
        return time.perf_counter() < (self._sent_at + PATIENCE if drawing else self._rests_until)

    def draw(self, spec: dict[str, Any]) -> None:
        """Show a specification: only the traces that changed are sent, and a changed layout."""
        with self._guard:
            before, self._drawn = _pieces(self._drawn), spec
            now = _pieces(spec)
            if before.keys() != now.keys():
                raise ValueError(
                    f"{len(spec['data'])} traces: the figure has {len(before) - 1}. Give every "
                    "specification as many, empty where there is nothing to draw."
                )
            changed = {name: new for name, new in now.items() if not _same(before[name], new)}
            if not changed:
                return
            self._sent_at = time.perf_counter()
            if self._shown_version == self._version:
                self._since = self._sent_at
            self._sheet.put(self._stamped({name: as_sent(new) for name, new in changed.items()}))
            self._wait_for_page()

    def close(self) -> None:
        """Close it in the kernel and on the page."""
        with self._guard:
            if self._watch:
                self._watch.cancel()
            free(self.view)

    def _repr_mimebundle_(self, **options):
        return self.view._repr_mimebundle_(**options)

    def _stamped(self, pieces: dict[str, Any]) -> dict[str, Any]:
        """Pieces with a new version number, and the version numbers of all pieces."""
        self._version += 1
        self._versions = self._versions | dict.fromkeys(pieces, self._version)
        stamped = {name: {"piece": new, "version": self._version} for name, new in pieces.items()}
        return stamped | {"versions": self._versions, "version": self._version}

    def _hear(self, content: Any) -> None:
        """Handle a page's message: what it has drawn, what it lacks, or a ping."""
        if not isinstance(content, dict):
            return
        start, drawn, missing = (content.get(key) for key in ("plotly", "drawn", "missing"))
        with self._guard:
            self._heard_at = time.perf_counter()
            if isinstance(start, int) and start >= 0:
                self._sheet.send_plotly(start)
            if "ping" in content:
                self._sheet.send({"pong": True})
            if isinstance(missing, list):
                self._sheet.put_all()
            if isinstance(drawn, int) and drawn != self._shown_version:
                self._shown_version, self._since, self._tries = drawn, self._heard_at, 0
            whole = drawn == self._version
            if isinstance(took := content.get("took"), int | float):
                self._rests_until = self._heard_at + min(took, PATIENCE)
        if whole:
            self._say("")

    @property
    def _behind(self) -> bool:
        """Whether no page has reported yet that it drew the last version."""
        return self._shown_version != self._version

    def _wait_for_page(self) -> None:
        """After a while, check whether the open page has drawn the last version."""
        closed = self.view.comm is None
        if not closed and self.view.pages and self._behind and not self._watch:
            self._watch = threading.Timer(LATE, self._look)
            self._watch.daemon = True
            self._watch.start()

    def _opened(self, change: dict[str, Any]) -> None:
        """A page was opened or closed."""
        with self._guard:
            self._since, self._tries = time.perf_counter(), 0
            self._wait_for_page()

    def _look(self) -> None:
        """Send everything again to a page that has not drawn it; report a page that is silent."""
        with self._guard:
            self._watch = None
            if not self.view.pages or self._shown_version == self._version:
                return
            now = time.perf_counter()
            if now - self._since >= LATE and self._tries < TRIES:
                self._tries += 1
                self._sheet.put_all()
            mute = now - max(self._since, self._heard_at) >= MUTE
            if self._tries < TRIES or not mute:  # otherwise the next drawing starts a new wait
                self._wait_for_page()
        self._say(NOT_DRAWN if mute else "")

    def _say(self, trouble: str) -> None:
        before, self.trouble = self.trouble, trouble
        if before != trouble:
            self.on_trouble()


class Ticker(threading.Thread):
    """Calls a function repeatedly until `end`, and once more after that.

    Args:
        work: Called in this thread. Its first exception is kept in `error`; calls go on.
    """

    def __init__(self, work: Callable[[], None]):
        super().__init__(name="dpo-lab drawing", daemon=True)
        self.error: BaseException | None = None
        self._work = work
        self._over = threading.Event()
        self._hurry = threading.Event()

    def hurry(self) -> None:
        """Call the function now instead of waiting."""
        self._hurry.set()

    def end(self) -> None:
        """Call the function once more, and end."""
        self._over.set()
        self._hurry.set()

    def run(self) -> None:
        """The thread's work."""
        over = False
        while not over:
            over = self._over.is_set()
            started = time.thread_time()  # wall time would include other processes' work
            self._hurry.clear()
            try:
                self._work()
            except Exception as error:
                self.error = self.error or error
            took = time.thread_time() - started
            if not over and not self._over.is_set():
                self._hurry.wait(rest(took))


def rest(took: float) -> float:
    """Seconds to wait after a drawing.

    Args:
        took: CPU seconds that the drawing took.
    """
    return min(max(PERIOD, took / SHARE), LONGEST)


def _pieces(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Layout and traces by name."""
    traces = {f"trace {index}": trace for index, trace in enumerate(spec["data"])}
    return traces | {"layout": spec["layout"]}


def _same(old: Any, new: Any) -> bool:
    if isinstance(new, np.ndarray):
        return isinstance(old, np.ndarray) and np.array_equal(old, new, equal_nan=True)
    if isinstance(new, dict):
        same_keys = isinstance(old, dict) and old.keys() == new.keys()
        return same_keys and all(_same(old[key], value) for key, value in new.items())
    return old == new
