"""Requests to a run from other processes, through two files of its folder.

requests.jsonl  what was asked: one line a request, each with an id; anyone appends
applied.jsonl   what the run made of it: the id, and the first step that it affects

The run reads the first file between two steps. Requests from before it began are left alone, so a
resumed run is not stopped by the request that stopped it before.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from dpo_lab.training.checks import check_range
from dpo_lab.training.control import RunControl
from dpo_lab.training.live_settings import LIVE

REQUESTS, APPLIED = "requests.jsonl", "applied.jsonl"
Ask = Literal["change", "pause", "resume", "step", "stop"]


def ask(folder: Path, what: Ask, **values: float) -> str:
    """Ask a run for something; it answers between two steps.

    Args:
        folder: The run's folder.
        what: What to do.
        **values: New `beta` or `learning_rate` for `change`; `steps` for `step`.

    Returns:
        The id of the request.

    Raises:
        ValueError: If a value is out of range, or none of these.
        OSError: If the folder cannot be written to.
    """
    request = {"id": uuid.uuid4().hex[:12], "time": time.time(), "ask": what, **values}
    _apply(request, RunControl())  # raises here, at who asks, rather than in the run
    append_line(folder / REQUESTS, request)
    return request["id"]


class Inbox:
    """The requests to a running run.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._lines = LineReader(folder / REQUESTS, at_end=True)

    def pass_on(self, control: RunControl, step: int) -> None:
        """Pass new requests on to the run's control, and write down what was made of them.

        Args:
            control: The run's control.
            step: Steps done so far; a change affects the next one.
        """
        for request in self._lines.new():
            answer = {"id": request.get("id"), "time": time.time(), "step": step + 1}
            try:
                _apply(request, control)
            except (ValueError, TypeError) as error:
                answer["refused"] = str(error)
            append_line(self.folder / APPLIED, answer)


class LineReader:
    """Reads the lines that are appended to a JSON-lines file.

    Args:
        path: The file, which may not exist yet.
        at_end: Whether to leave out the lines that are there already.
    """

    def __init__(self, path: Path, at_end: bool = False):
        self.path = path
        self._read = self._size() if at_end else 0

    def new(self) -> list[dict[str, Any]]:
        """The objects of the complete lines since the last call; broken lines are left out."""
        if self._size() <= self._read:
            return []
        with self.path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        rows = []
        for line in whole.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows.append(row)
        return rows

    @property
    def cut(self) -> bool:
        """Whether the file is shorter than what was read: it was cut back or written again."""
        return self._size() < self._read

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append an object as one line, in one write, so that lines of two writers do not mix."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(handle, (json.dumps(row) + "\n").encode())
    finally:
        os.close(handle)


def _apply(request: Mapping[str, Any], control: RunControl) -> None:
    """Do what is asked.

    Raises:
        ValueError: If it is not a request, or a value is out of range.
    """
    what = request.get("ask")
    values = {k: v for k, v in request.items() if k not in ("id", "time", "ask")}
    known = {"change": set(LIVE), "step": {"steps"}}.get(what, set())
    if what not in get_args(Ask) or values.keys() - known or (what == "change" and not values):
        raise ValueError(
            f"{what} {values}: no such request. Ask for a change of {' or '.join(LIVE)}, or to "
            "pause, resume, step or stop."
        )
    for name, value in values.items():
        check_range(name, value, 0, strict=True)
    if what == "change":
        control.set(**values)
    elif what == "step":
        control.step(int(values.get("steps", 1)))
    else:
        getattr(control, what)()
