"""Pieces of HTML that a cell shows, in the page's own theme, with the same in words beside them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from dpo_lab.analysis.token_report import visible_letter
from dpo_lab.ui.figures.style import CSS_COLOURS
from dpo_lab.ui.html.tables import AS_IT_IS, escaped
from dpo_lab.ui.widgets.comms import keep_to_subshells


@dataclass(frozen=True)
class Fragment:
    """A piece of HTML; the last expression of a cell shows it.

    Attributes:
        html: Every text in it escaped, without a style.
        words: The same as plain text, for a page without HTML and for who does not see it.
    """

    html: str
    words: str

    def __html__(self) -> str:
        """What a template writes for it."""
        return self.html

    def _repr_mimebundle_(self, **options) -> dict[str, str]:
        page = f"<style>{style()}</style><div class='dpo-inspect {AS_IT_IS}'>{self.html}</div>"
        return {"text/html": page, "text/plain": self.words}


def bundle(view: Any, options: dict, words: str, page: str = "") -> dict | None:
    """What a widget shows of itself, and what a page without a kernel shows in its place.

    From then on it answers while a cell runs.

    Args:
        view: The widget.
        options: As `_repr_mimebundle_` gets them.
        words: As text, escaped here.
        page: As HTML; the words alone by default.
    """
    keep_to_subshells()
    shown = view._repr_mimebundle_(**options)
    return shown and shown | {
        "text/plain": words,
        "text/html": page or f"<em>{escaped(words)}</em>",
    }


def style() -> str:
    """The look of all fragments: in the colours of JupyterLab's theme, or of the page."""
    return CSS_COLOURS + files("dpo_lab.ui.html").joinpath("output.css").read_text()


def visible(text: str) -> str:
    """A token's text as escaped HTML, its white space made visible."""
    if not text:
        return "<span class='space'>∅</span>"
    return "".join(map(_as_html, text))


def _as_html(letter: str) -> str:
    sign = visible_letter(letter)
    if sign == letter:
        return escaped(letter)
    return f"<span class='space'>{sign}</span>" + letter * (letter in "\n\t")
