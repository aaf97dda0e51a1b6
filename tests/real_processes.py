"""Other processes, watched from a test: their children, whether they run, states to wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def until(true: Callable[[], T], what: str) -> T:
    """Wait for a state of the world; ten minutes are for a machine that is taken.

    Args:
        true: Called until it returns something true, which is returned.
        what: What has not come to be, for the message.
    """
    end = time.monotonic() + 600
    while not (value := true()):
        assert time.monotonic() < end, what
        time.sleep(0.05)
    return value


def children(pid: int) -> list[int]:
    """Processes that a process has started and not yet collected."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def running(pid: int) -> bool:
    """A process that has ended and waits to be collected does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ranks(launcher: int) -> list[int]:
    """The processes of one run, by rank, from the variables with which a launcher started them."""
    found = {}
    for child in children(launcher):
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found |= {int(v[5:]): child for v in variables if v.startswith(b"RANK=")}
    return [found[rank] for rank in sorted(found)]
