"""Widgets that are no longer needed, taken out of the kernel and the page."""

from __future__ import annotations

from collections.abc import Iterator

import ipywidgets as widgets


def free(*roots: widgets.Widget) -> None:
    """Close widgets with all that they hold: children, layouts, styles.

    ipywidgets keeps every widget that is open for ever, and the page does too. The values of a
    closed one can still be read and set; they reach no page.

    Args:
        roots: Widgets; what is below them is closed with them.
    """
    found: dict[int, widgets.Widget] = {}
    waiting = list(roots)
    while waiting:
        widget = waiting.pop()
        if id(widget) not in found:
            found[id(widget)] = widget
            waiting += _held(widget)
    for widget in found.values():
        widget.close()


def _held(widget: widgets.Widget) -> Iterator[widgets.Widget]:
    for name in widget.keys:
        value = getattr(widget, name, None)
        several = value if isinstance(value, (list, tuple)) else (value,)
        yield from (one for one in several if isinstance(one, widgets.Widget))
