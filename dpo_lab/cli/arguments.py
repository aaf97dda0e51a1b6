"""Command-line arguments by tyro: its types told plainly, its messages in one line."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import tyro

SAID = tyro.conf.arg(help_behavior_hint="")
"""Of an option that may be left out and whose help says what happens then."""
METAVARS = {int: "INT", float: "FLOAT", str: "STR", Path: "PATH"}


class UsageError(ValueError):
    """Arguments that a command does not understand."""


def parse_command(command: Callable[..., Any], program: str, arguments: list[str]) -> Any:
    """The command object that the arguments ask for.

    Args:
        command: Its dataclass or function.
        program: How it is called, in help and messages.
        arguments: Words of the command line after that.

    Raises:
        UsageError: In one line, what was wrong and what was meant.
        SystemExit: After help was printed.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                command,
                prog=program,
                description=inspect.getdoc(command),
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes,),
                registry=_registry(),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(f"{_one_line(printed.getvalue())}. See '{program} --help'.") from None


def _registry() -> tyro.constructors.ConstructorRegistry:
    """Options that may be left out read as their plain type, in the help and in messages."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def optional(info):
        kinds = [kind for kind in get_args(info.type) if kind is not NoneType]
        if len(kinds) != 1 or len(get_args(info.type)) != 2 or kinds[0] not in METAVARS:
            return None
        kind = kinds[0]
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar=METAVARS[kind],
            instance_from_str=lambda words: kind(words[0]),
            is_instance=lambda value: value is None or isinstance(value, kind),
            str_from_instance=lambda value: ["none" if value is None else str(value)],
        )

    return registry


def _one_line(boxed: str) -> str:
    """A boxed message as one line: what was wrong and what was meant, without the help text."""
    lines = [re.sub(r"^[│╭╰]\s?|\s*[│╮╯]$", "", line).strip() for line in boxed.splitlines()]
    text = " ".join(line for line in lines if not line.startswith("─") or set(line) == {"─"})
    parts = [part.strip() for part in re.split("─{3,}", text)]
    help_text = ("Argument helptext", "For full helptext")
    kept = [part.rstrip(".") for part in parts if part and not part.startswith(help_text)]
    return ". ".join(kept)
