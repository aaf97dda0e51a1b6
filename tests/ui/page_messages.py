"""What a page sends of a widget, by the way that a kernel hears it."""

from __future__ import annotations

from typing import Any

from ipywidgets import Widget


def says(widget: Widget, content: Any) -> None:
    """A message of the widget's own kind."""
    _send(widget, {"method": "custom", "content": content})


def sets(widget: Widget, **state: Any) -> None:
    """New values of traits, such as how many views of it there are."""
    _send(widget, {"method": "update", "state": state})


def _send(widget: Widget, data: dict[str, Any]) -> None:
    widget.comm.handle_msg({"content": {"data": data}, "buffers": []})
