"""Closes widgets that are no longer needed, in the kernel and on the page."""

from __future__ import annotations

from collections.abc import Iterator

import ipywidgets as widgets


def free(*roots: widgets.Widget) -> None:
    """Close widgets with everything that they hold: children, layouts, styles.

    ipywidgets keeps every open widget forever, and so does the page. The values of a closed widget
    can still be read and set, but reach no page.

    Args:
        roots: Widgets to close, with everything below them.
    """
    by_id: dict[int, widgets.Widget] = {}
    waiting = list(roots)
    while waiting:
        widget = waiting.pop()
        if id(widget) not in by_id:
            by_id[id(widget)] = widget
            waiting += _held(widget)
    for widget in by_id.values():
        widget.close()


def _held(widget: widgets.Widget) -> Iterator[widgets.Widget]:
    for name in widget.keys:
        value = getattr(widget, name, None)
        several = value if isinstance(value, (list, tuple)) else (value,)
        yield from (part for part in several if isinstance(part, widgets.Widget))
