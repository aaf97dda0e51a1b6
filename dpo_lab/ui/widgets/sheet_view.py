"""A view that may come late: what it shows is on a model of its own.

A page gives a widget's module two seconds to load, or no message reaches the widget any more. So
whatever changes is on a sheet: a model that every page knows without a module.
"""

from __future__ import annotations

import anywidget
import ipywidgets as widgets
from traitlets import Instance


class SheetView(anywidget.AnyWidget):
    """Shows a sheet by a module of its own; all else that it needs is given to it when it is made.

    Attributes:
        sheet: What is shown; messages come from there, too.
    """

    sheet = Instance(widgets.Widget).tag(sync=True, **widgets.widget_serialization)
