"""Command-line arguments by tyro: what the options of all commands have in common."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Callable
from functools import partial
from types import NoneType
from typing import Annotated, Any, get_args

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from dpo_lab.cli.output import visible

SAID = tyro.conf.arg(help_behavior_hint="")
"""Of an option that may be left out and whose help says what happens then."""
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""An option without a value."""
REGISTRY = ConstructorRegistry()


@REGISTRY.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """`int | None` reads as `int`, in the help and in messages: None is no word to type."""
    kinds = get_args(info.type)
    if len(kinds) != 2 or kinds[1] is not NoneType:
        return None
    return ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kinds[0], info.markers))


def parse_command(command: Callable[..., Any], program: str, arguments: list[str]) -> Any:
    """The command object that the arguments ask for.

    Args:
        command: Its dataclass.
        program: How it is called, in help and messages.
        arguments: Words of the command line after that.

    Raises:
        SystemExit: After help was printed, or what was wrong and what was meant.
    """
    parse = partial(
        tyro.cli,
        command,
        prog=program,
        description=inspect.getdoc(command),
        config=(tyro.conf.OmitArgPrefixes,),
        registry=REGISTRY,
    )
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return parse(args=arguments)
    except SystemExit as stop:
        if stop.code:  # said of words that cannot steer the terminal
            parse(args=[visible(word) for word in arguments])
        raise
