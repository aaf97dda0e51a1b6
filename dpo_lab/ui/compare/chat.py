"""A chat with two models at once on the page: one box, two columns of answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from traitlets import Dict

from dpo_lab.ui.widgets.sheet_view import SheetView

EMPTY = {
    "names": ["A", "B"], "rows": [], "busy": False, "open": False,
    "status": "", "problem": "", "note": "",
}  # fmt: skip
MOST_CHARACTERS = 20_000
"""Longest text that a page may send."""


class ChatView(SheetView):
    """Shows the chat."""

    _esm = Path(__file__).with_name("chat.js")
    _css = Path(__file__).with_name("chat.css")


class ChatSheet(widgets.Widget):
    """Holds what the page shows of a chat and reports what is typed; it decides nothing.

    Args:
        said: Called with `(action, text)`: `ask` with a text, `stop` or `new` without.

    Attributes:
        state: What the page shows, all of it text; `rows` are `{"prompt", "a", "b"}`.
        view: It on the page.
    """

    state = Dict(EMPTY).tag(sync=True)

    def __init__(self, said: Callable[[str, str], None]):
        super().__init__()
        self._said = said
        self.view = ChatView(sheet=self)
        self.on_msg(self._message)

    def _message(self, widget, content: Any, buffers) -> None:
        if not isinstance(content, dict):
            return
        action, text = content.get("action"), content.get("text", "")
        if action in ("ask", "stop", "new") and isinstance(text, str):
            self._said(action, text[:MOST_CHARACTERS])
