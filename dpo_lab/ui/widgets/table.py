"""Table widget: rows of plain text, for mouse, keyboard and screen readers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from traitlets import Int, List, Unicode

from dpo_lab.ui.widgets.sheet_view import SheetView


class TableView(SheetView):
    """Shows a table."""

    _esm = Path(__file__).with_name("table.js")
    _css = Path(__file__).with_name("table.css")


class Table(widgets.Widget):
    """Rows of which one is selected, or any number are ticked; the first text identifies a row.

    Args:
        label: Name of the table for screen readers.
        columns: Title to width, in percent of the table.
        numbers: Titles of the right-aligned columns.
        tick: What ticking a row does; if empty, rows are selected instead.

    Attributes:
        rows: The texts of each row, one per column.
        selected: Index of the selected row, or of the row with the keyboard focus, from 0.
        ticked: First texts of the ticked rows, in order of ticking.
        view: The widget.
    """

    label = Unicode().tag(sync=True)
    tick = Unicode().tag(sync=True)
    columns = List().tag(sync=True)
    rows = List().tag(sync=True)
    selected = Int(0).tag(sync=True)
    ticked = List(Unicode()).tag(sync=True)

    def __init__(
        self, label: str, columns: Mapping[str, float], numbers: Collection[str], tick: str = ""
    ):
        heads = [[title, width, title in numbers] for title, width in columns.items()]
        super().__init__(label=label, columns=heads, tick=tick)
        self.view = TableView(sheet=self, _dom_classes=["dpo-table"])
        self.on_msg(self._heard)

    def _heard(self, widget, content: Any, buffers) -> None:
        """Handle one tick at a time, since the page may not know of ticks set here meanwhile."""
        match content:
            case {"row": str(name), "ticked": bool(on)}:
                self.ticked = [row for row in self.ticked if row != name] + [name] * on
