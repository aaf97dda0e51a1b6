"""What the commands print: results to standard output, messages to standard error."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from typing import Any
from unicodedata import category

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

PROGRAM = "dpo-lab"
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Signs that set the direction of the text around them."""


def print_rows(rows: Sequence[dict], as_json: bool = False) -> None:
    """Print a table, or one JSON object a row."""
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    table = Table(*(Column(plain(title)) for title in rows[0]))
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    new_console().print(table)


def plain(text: object) -> Text:
    """A text in a table as it is: no markup, no emoji, nothing that steers the terminal."""
    return Text(visible(str(text)))


def _cell(value: Any) -> Text:
    if isinstance(value, float):
        value = f"{value:.3f}" if value == 0 or abs(value) >= 0.1 else f"{value:.3g}"
    return plain("" if value is None else value)


class SafeConsole(Console):
    """A console whose lines of text cannot steer the terminal."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich's; texts are made visible first."""
        super().print(*(visible(o) if isinstance(o, str) else o for o in objects), **options)


def new_console(*, stderr: bool = False) -> Console:
    """Standard output or error; wide where it is no terminal, so that no line is folded."""
    console = SafeConsole(stderr=stderr, emoji=False)
    if not console.is_terminal:
        console.width = 160
    return console


def visible(text: str) -> str:
    """A text with what would steer a terminal or turn its words around written out, not sent.

    Data, names and answers may hold escape sequences and bidirectional controls; line feeds and
    tabs stay.
    """
    text = text.replace("\r\n", "\n")
    return "".join(
        sign.encode("unicode_escape").decode()
        if sign not in "\n\t" and (category(sign) in ("Cc", "Cs") or sign in BIDI)
        else sign
        for sign in text
    )


def say(text: str) -> None:
    """Tell the user something that is no result."""
    print(f"{PROGRAM}: {visible(text)}", file=sys.stderr, flush=True)


class SayingHandler(logging.Handler):
    """Says what the lab logs; names in it come from files, too."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say it."""
        say(" ".join(record.getMessage().split()))
