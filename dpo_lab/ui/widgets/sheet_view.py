"""Base class of views that may load late: what they show is held by a separate model, the sheet.

A widget whose JavaScript module takes more than two seconds to load gets no more messages. So
whatever changes is on the sheet: a model that needs no module on the page.
"""

from __future__ import annotations

import anywidget
import ipywidgets as widgets
from traitlets import Instance


class SheetView(anywidget.AnyWidget):
    """Shows a sheet with its own JavaScript module; its other traits are set when it is created.

    Attributes:
        sheet: The model of what is shown; it also carries the messages.
    """

    sheet = Instance(widgets.Widget).tag(sync=True, **widgets.widget_serialization)
