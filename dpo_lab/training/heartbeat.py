"""A sign of life of a running run: a small file in its folder, written twice a second.

It tells a run that is paused from one whose process is dead, on this machine or on a shared folder:
whoever follows it watches the file change, and compares no clocks.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

ALIVE = "alive.json"
EVERY = 0.5
"""Seconds between two beats."""
DEAD_AFTER = 4.0
"""Seconds without a beat after which the run's process is taken to be dead."""


class Heart:
    """Writes the file in its own thread until it is stopped, then removes it.

    Args:
        folder: The run's folder.
        facts: Called for each beat, for the run's present state.
    """

    def __init__(self, folder: Path, facts: Callable[[], Mapping[str, Any]]):
        self.path, self._facts = folder / ALIVE, facts
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="dpo-lab heart", daemon=True)

    def start(self) -> None:
        """Start to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Stop to beat, and remove the file."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        number, host, pid = 0, socket.gethostname(), os.getpid()
        scratch = self.path.with_name(ALIVE + ".next")
        while True:
            number += 1
            facts = {"beat": number, "host": host, "pid": pid, "time": time.time()}
            try:
                scratch.write_text(json.dumps(facts | dict(self._facts())))
                os.replace(scratch, self.path)
            except OSError as error:  # a full disk ends the run by itself, at its next record
                logger.debug("%s: %s", self.path, error)
            if self._stopped.wait(EVERY):
                return


class Pulse:
    """Whether a run's process lives, from its heartbeat.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path):
        self.path = folder / ALIVE
        self._facts: dict[str, Any] = {}
        self._since = time.monotonic()

    def feel(self) -> dict[str, Any] | None:
        """The last beat; None if there is none, or none was new for `DEAD_AFTER` seconds.

        A beat that was there before the first call counts until that time is over, unless its
        process was on this machine and is gone.
        """
        facts = self._facts
        try:
            facts = json.loads(self.path.read_text())
        except FileNotFoundError:
            return None
        except (ValueError, OSError):  # half written, on a shared folder
            pass
        if facts != self._facts:
            self._facts, self._since = facts, time.monotonic()
        return None if self.stopped else self._facts

    @property
    def stopped(self) -> bool:
        """Whether the process is gone, or no beat was new for `DEAD_AFTER` seconds."""
        here = self._facts.get("host") == socket.gethostname()
        gone = here and not _exists(self._facts.get("pid", 0))
        return gone or time.monotonic() - self._since > DEAD_AFTER


def last_beat(folder: Path) -> dict[str, Any]:
    """What the sign of life in a run's folder says, however old; empty if there is none."""
    try:
        return json.loads((folder / ALIVE).read_text())
    except (OSError, ValueError):
        return {}


def owner_elsewhere(folder: Path) -> str | None:
    """The other machine on which a process trains the run in a folder, if there is one.

    If another machine has left a sign of life, this waits until the next one, or `DEAD_AFTER`
    seconds.
    """
    pulse = Pulse(folder)
    first = pulse.feel()
    if not first or first.get("host") == socket.gethostname():
        return None  # a process of this machine would hold the folder's lock
    while beat := pulse.feel():
        if beat != first:
            return beat.get("host")
        time.sleep(EVERY / 2)
    return None


def _exists(pid: int) -> bool:
    """Whether there is a process with this number on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True
