"""What the commands print: results to standard output, messages to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

PROGRAM = "dpo-lab"


def print_rows(rows: Sequence[dict], as_json: bool = False) -> None:
    """Print a table, or one JSON object a row."""
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    new_console().print(table, markup=False)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.1 else f"{value:.3g}"


def new_console() -> Console:
    """Standard output; wide where it is no terminal, so that no line is folded."""
    console = Console()
    if not console.is_terminal:
        console.width = 160
    return console


def say(text: str) -> None:
    """Tell the user something that is no result."""
    print(f"{PROGRAM}: {text}", file=sys.stderr, flush=True)
