"""One question on the page: two answers side by side, by mouse, keyboard or screen reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from traitlets import Dict

from dpo_lab.data.pairs import Text
from dpo_lab.ui.widgets.sheet_view import SheetView

BLANK = {
    "click": 0, "heard": 0, "asked": False, "open": False,
    "prompt": "", "a": "", "b": "", "waiting": "",
    "progress": "", "place": "", "said": "", "problem": "",
}  # fmt: skip


class QuestionView(SheetView):
    """Shows a question."""

    _esm = Path(__file__).with_name("question.js")
    _css = Path(__file__).with_name("question.css")


class QuestionSheet(widgets.Widget):
    """Holds what the page shows and reports what is clicked; it decides nothing.

    Args:
        clicked: Called with `(choice, click)`: A, B, tie, skip or undo, and the `click` of the
            state that was on the page. Whatever a page may send comes here: it is to be checked.

    Attributes:
        state: What the page shows, all of it text; one message a change.
        heard: Messages from the page so far. It is part of the state, so that the page gets an
            answer to a click that changed nothing, too.
        view: It on the page.
    """

    state = Dict(BLANK).tag(sync=True)

    def __init__(self, clicked: Callable[[Any, Any], None]):
        super().__init__()
        self._clicked, self.heard = clicked, 0
        self.view = QuestionView(sheet=self)
        self.on_msg(self._message)

    def _message(self, widget, content: Any, buffers) -> None:
        self.heard += 1
        if isinstance(content, dict):
            self._clicked(content.get("choice"), content.get("click"))


def prompt_words(prompt: Text) -> str:
    """A whole prompt for people: the text, or the turns of a conversation."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)
