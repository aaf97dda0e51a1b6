"""A check of data as a widget: name data and model, click, read what was found."""

from __future__ import annotations

import threading
from importlib.resources import files
from typing import Any

import ipywidgets as widgets

from dpo_lab.data.preflight.check import Data
from dpo_lab.models.handed_over import AnyModel
from dpo_lab.training.preflight import PreFlight, check_data
from dpo_lab.ui.figures.preflight import preflight_figure
from dpo_lab.ui.html.output import bundle, style
from dpo_lab.ui.html.tables import AS_IT_IS, escaped, render
from dpo_lab.ui.preflight.findings import findings_html, tiles
from dpo_lab.ui.widgets.live import LiveFigure

_OWN = "of this notebook"


class DataChecker:
    """Checks preference pairs before any training, in a thread, and shows what it finds.

    Args:
        data: A name, file, folder or hub id; rows in memory, or a `datasets.Dataset`.
        model: Whose tokenizer is used: a name, or a loaded model.
        rows: Look at only the first so many rows of each split.
        **settings: Of the run, as in `check_data`.

    Attributes:
        data: Input of the data's name; disabled for data in memory.
        model: Input of the model's name; disabled for a loaded model.
        max_length: Input of the most tokens of a pair.
        button: Starts the check.
        status: What it is at, or what went wrong.
        found: What was found last; none before.
        view: All of it as one widget.
    """

    def __init__(
        self,
        data: Data = "reviews",
        model: AnyModel = "micro",
        *,
        rows: int | None = None,
        **settings: Any,
    ):
        self._given = {"data": data, "model": model}
        self._rows, self._settings = rows, settings
        self.found: PreFlight | None = None
        self.data = _named("data", data, "320px")
        self.model = _named("model", model, "240px")
        self.max_length = widgets.BoundedIntText(
            value=settings.pop("max_length", 512), min=2, max=10**9, description="max_length"
        )
        self.max_length.layout.width = "170px"
        self.button = widgets.Button(description="Check", button_style="primary")
        self.status, self._page = widgets.HTML(), widgets.HTML()
        # Made here, and shown once there is something to draw: a thread cannot open widgets.
        self._figure, self._place = LiveFigure(_nothing()), widgets.VBox()
        bar = widgets.HBox([self.data, self.model, self.max_length, self.button, self.status])
        bar.layout = widgets.Layout(flex_flow="row wrap", align_items="center")
        self.view = widgets.VBox([bar, self._page, self._place]).add_class("dpo-checker")
        self._thread: threading.Thread | None = None
        self.button.on_click(lambda _: self.start())

    def start(self) -> None:
        """Begin a check in a thread, unless one is under way."""
        if self._thread and self._thread.is_alive():
            return
        self.button.disabled = True
        self._thread = threading.Thread(target=self._work, name="dpo-lab check", daemon=True)
        self._thread.start()

    def wait(self) -> PreFlight | None:
        """Wait until the check is done, and give what it found."""
        if self._thread:
            self._thread.join()
        return self.found

    def _work(self) -> None:
        try:
            self.found = check_data(
                self._value(self.data, "data"),
                self._value(self.model, "model"),
                rows=self._rows,
                progress=self._say,
                **self._settings,
                max_length=self.max_length.value,
            )
            self._show(self.found)
        except Exception as error:  # a thread's error would be lost
            self.status.value = f"<b>{escaped(error)}</b>"
        finally:
            self.button.disabled = False

    def _value(self, box: widgets.Text, name: str) -> Any:
        return self._given[name] if box.disabled else box.value.strip()

    def _say(self, what: str, done: int, total: int) -> None:
        count = f" {done:,}" + f" of {total:,}" * bool(total) if done else ""
        self.status.value = escaped(f"{what}{count} …")

    def _show(self, found: PreFlight) -> None:
        self.status.value = escaped(found.data)
        self._page.value = page_html(found)
        self._figure.draw(preflight_figure(found.data).to_plotly_json())
        self._place.children = [self._figure.view]

    def _repr_mimebundle_(self, **options):
        words = "A check of data: run this cell, and click Check."
        if self.found:
            words = f"{self.found.data}\n{findings_html(self.found).words}"
        return bundle(self.view, options, words, self._page.value)


def page_html(found: PreFlight) -> str:
    """What was found, as HTML in the page's theme.

    Args:
        found: Result of the check.
    """
    look = files("dpo_lab.ui.preflight")
    own = "".join(look.joinpath(name).read_text() for name in ("findings.css", "checker.css"))
    return render(
        "preflight/checker.html.jinja",
        style=style() + own,
        kind=f"dpo-inspect dpo-check {AS_IT_IS}",
        tiles=tiles(found),
        findings=findings_html(found),
        why_no_cost=found.why_no_cost,
    )


def _named(name: str, value: Any, width: str) -> widgets.Text:
    """An input of a name; for what is no name, one that only says so."""
    named = isinstance(value, str) or hasattr(value, "__fspath__")
    shown = str(value) if named else f"{type(value).__name__} {_OWN}"
    box = widgets.Text(value=shown, description=name, disabled=not named)
    box.layout.width, box.style.description_width = f"min({width}, 95%)", "45px"
    return box


def _nothing() -> dict[str, Any]:
    """As many traces as the figure has, without a point."""
    kinds = ("bar", "scatter", "scatter", "scatter")
    return {"data": [{"type": kind, "x": [], "y": []} for kind in kinds], "layout": {}}
