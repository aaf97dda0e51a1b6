"""Signals that end a command, and the exit codes that tell which it was."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from dpo_lab.cli.output import say

ENDING = [each for each in signal.Signals if each.name in ("SIGINT", "SIGTERM", "SIGHUP")]


@contextlib.contextmanager
def on_signals(act: Callable[[int], None]) -> Iterator[None]:
    """Do something at the first signal that ends a command; a second one ends it as ever.

    Args:
        act: Told the signal's number. A signal that the command was begun to ignore, as by
            `nohup`, stays ignored.
    """

    def heard(number: int, frame: FrameType | None) -> None:
        before.close()
        act(number)

    with contextlib.ExitStack() as before:
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before.callback(signal.signal, number, signal.signal(number, heard))
        yield


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """A signal ends what is being done here in order, with 128 + its number as the exit code."""

    def end(number: int) -> None:
        say(f"ended by {signal.Signals(number).name}")
        raise SystemExit(128 + number)

    with on_signals(end):
        yield
