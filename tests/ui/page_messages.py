"""What a page sends of a widget, by the way that a kernel hears it."""

from __future__ import annotations

from typing import Any

from ipywidgets import Widget


def says(widget: Widget, content: Any) -> None:
    """A message of the widget's own kind."""
    clicked(widget.comm, content)


def clicked(comm: Any, content: Any) -> None:
    """The same to a widget that may be closed by now."""
    _send(comm, {"method": "custom", "content": content})


def sets(widget: Widget, **state: Any) -> None:
    """New values of traits, such as how many views of it there are."""
    _send(widget.comm, {"method": "update", "state": state})


def _send(comm: Any, data: dict[str, Any]) -> None:
    comm.handle_msg({"content": {"data": data}, "buffers": []})
