"""Widget that draws a figure on the page, and the model that holds the figure's pieces.

The view is a module of a few kilobytes that loads plotly afterwards, however long that takes.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
from plotly.offline import get_plotlyjs

from dpo_lab.ui.widgets.sheet_view import SheetView

PART = 400_000
"""Bytes of plotly per message: a server drops what exceeds 3 MB in three seconds."""
_NUMBERS = ("float32", "float64", "int32", "int16", "int8", "uint32", "uint16", "uint8")
"""NumPy types that a page reads as typed arrays."""


class Sheet(widgets.Widget):
    """The pieces of a figure, held by the widget model on every page.

    The page's model merges what is sent, so that a view that opens late, or again, has all of it.

    Args:
        pieces: Name to content; bytes may be anywhere in it.
        heard: Called with a page's messages, which it must validate.
    """

    def __init__(self, pieces: Mapping[str, Any], heard: Callable[[Any], None]):
        self._pieces = dict(pieces)
        super().__init__()
        self.on_msg(lambda widget, content, buffers: heard(content))

    def put(self, pieces: Mapping[str, Any]) -> None:
        """Send pieces that replace those of the same names."""
        self._pieces |= pieces
        self.send_state(set(pieces))

    def put_all(self) -> None:
        """Send everything again."""
        self.send_state(set(self._pieces))

    def get_state(self, key=None, drop_defaults: bool = False) -> dict[str, Any]:
        """Pieces by name, all of them by default, with the model's own state."""
        wanted = {key} if isinstance(key, str) else key
        if wanted is None:
            return super().get_state(drop_defaults=drop_defaults) | self._pieces
        pieces = {name: piece for name, piece in self._pieces.items() if name in wanted}
        return pieces | super().get_state(set(wanted) - pieces.keys(), drop_defaults)

    def send_plotly(self, start: int) -> None:
        """Send the part of plotly's compressed source that begins at a byte."""
        source = plotly_source()
        self.send({"start": start, "size": len(source)}, [source[start : start + PART]])


class PlotView(SheetView):
    """Draws a sheet on the page, as plain lines until plotly is loaded."""

    _esm = Path(__file__).with_name("plot_view.js")
    _css = Path(__file__).with_name("plot_view.css")

    @property
    def pages(self) -> int:
        """Number of views on open pages; a page that closed without a message still counts."""
        return self._view_count if self.comm is not None else 0


@lru_cache(maxsize=1)
def plotly_source() -> bytes:
    """plotly.js as its Python package ships it, compressed by gzip."""
    return gzip.compress(get_plotlyjs().encode(), 6, mtime=0)


def as_sent(value: Any) -> Any:
    """A piece of a specification as plotly.js reads it.

    Dotted keys become nested ones, `None` is left out, and arrays of numbers become bytes.
    """
    if isinstance(value, np.ndarray):
        if value.ndim == 1 and value.dtype.name in _NUMBERS:
            return {"dtype": value.dtype.name, "value": value.tobytes()}
        return as_sent(value.tolist())
    if isinstance(value, dict):
        return _nested(value)
    if isinstance(value, list | tuple):
        return [as_sent(item) for item in value]
    if isinstance(value, float) and value != value:
        return None
    return value.item() if isinstance(value, np.generic) else value


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        if value is None:
            continue
        first, _, rest = key.partition(".")
        first = re.sub(r"^([xy]axis|legend)1$", r"\1", first)
        sent = as_sent({rest: value} if rest else value)
        old = nested.get(first)
        nested[first] = _merged(old, sent) if isinstance(old, dict) else sent
    return nested


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(old[key], new[key])
        for key in old.keys() & new.keys()
        if isinstance(old[key], dict) and isinstance(new[key], dict)
    }
    return old | new | both
