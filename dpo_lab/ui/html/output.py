"""Pieces of HTML that a cell shows, in the page's own theme, with the same in words beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from dpo_lab.analysis.token_report import visible_letter
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


def table(
    titles: Sequence[str],
    rows: Iterable[Sequence[str | Fragment]],
    numbers: Collection[str] = (),
    widths: Sequence[float] = (),
) -> str:
    """A table as HTML: texts are escaped, fragments stand as they are.

    Args:
        titles: Of the columns.
        rows: Cells, as many in each row as there are titles.
        numbers: Titles of the columns that are set to the right.
        widths: Of the columns, in hundredths; alike where left out.
    """
    kinds = ["number" if title in numbers else "" for title in titles]
    columns = "".join(f"<col style='width: {width}%'>" for width in widths)
    head = "".join(
        f"<th scope='col' class='{kind}'>{escaped(title)}</th>"
        for title, kind in zip(titles, kinds, strict=True)
    )
    body = []
    for row in rows:
        cells = (cell.html if isinstance(cell, Fragment) else escaped(cell) for cell in row)
        pairs = zip(cells, kinds, strict=True)
        body.append("".join(f"<td class='{kind}' dir='auto'>{cell}</td>" for cell, kind in pairs))
    lines = "".join(f"<tr>{line}</tr>" for line in body)
    return (
        f"<table><colgroup>{columns}</colgroup><thead><tr>{head}</tr></thead>"
        f"<tbody>{lines}</tbody></table>"
    )


def style() -> str:
    """The look of all fragments: in the colours of JupyterLab's theme, or of the page."""
    return files("dpo_lab.ui.html").joinpath("output.css").read_text()


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
