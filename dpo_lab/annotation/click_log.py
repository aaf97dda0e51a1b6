"""Append-only click log: every line is synced to disk, and a torn last line is repaired.

Nothing is thrown away: removed text, and files that the lab did not write, are kept beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from dpo_lab.training.files import sync, write_bytes


def begin(log: Path) -> None:
    """Create an empty log, on disk when this returns."""
    log.touch()
    for made in (log, log.parent, log.parent.parent):
        sync(made)


def append(log: Path, line: Mapping[str, Any]) -> None:
    """Append a line, on disk when this returns.

    Raises:
        OSError: If it cannot be written; the log is then unchanged.
    """
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)
    size = os.fstat(handle).st_size
    try:
        data = json.dumps(line).encode() + b"\n"
        while data:
            data = data[os.write(handle, data) :]
        os.fsync(handle)
    except BaseException:
        os.ftruncate(handle, size)  # half a line would spoil the next one
        raise
    finally:
        os.close(handle)


def mend_end(log: Path) -> str:
    """Remove a torn last line, which a kill or a power cut left, from a log.

    A last line is torn if it has no newline and is not JSON, or if it ends in NUL bytes. One that
    only lacks its newline gets it. A torn line is moved to a file beside the log, with `.cut`.

    Args:
        log: The file; every line is JSON.

    Returns:
        A message about what was removed; empty if nothing was.
    """
    data = log.read_bytes()
    last = data[data.rstrip(b"\n").rfind(b"\n") + 1 :]
    text = last.removesuffix(b"\n")
    if text == last and _is_json(last):
        write_bytes(log, data + b"\n")
        sync(log.parent)
        return ""
    if not text.endswith(b"\0") and (text != last or not last):
        return ""
    kept = log.with_name(f"{log.name}.cut")
    with kept.open("ab") as file:
        file.write(text + b"\n")
    sync(kept)
    write_bytes(log, data.removesuffix(last))
    sync(log.parent)
    shown = repr(last[:60].decode(errors="replace"))
    return f"the last line of {log} was cut short and is left out: {shown}. It is kept in {kept}."


def keep_aside(path: Path) -> Path:
    """Rename a file to an unused name: `.before` added, or `.before.2` and so on.

    Returns:
        Its new path.
    """
    names = (f"{path.name}.before" + f".{n}" * (n > 1) for n in count(1))
    kept = next(free for name in names if not (free := path.with_name(name)).exists())
    os.rename(path, kept)
    return kept


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
