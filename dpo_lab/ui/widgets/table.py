"""Rows of plain text on a page, by mouse, keyboard or screen reader."""

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
    """Rows, one of them picked or any of them ticked; a row is known by its first text.

    Args:
        label: What a screen reader says of it.
        columns: Title to width, in hundredths of the table.
        numbers: Titles of the columns that are set to the right.
        tick: What a tick at a row does; without these words a row is picked instead.

    Attributes:
        rows: The texts of each row, one a column.
        selected: Place of the picked row, or of the one that the keyboard is at, from 0.
        ticked: First texts of the rows that are ticked, the last ticked last.
        view: It on the page.
    """

    label, tick = Unicode().tag(sync=True), Unicode().tag(sync=True)
    columns, rows = List().tag(sync=True), List().tag(sync=True)
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
        """One tick at a time: a page does not know of one that was set here meanwhile."""
        match content:
            case {"row": str(name), "ticked": bool(on)}:
                self.ticked = [one for one in self.ticked if one != name] + [name] * on
