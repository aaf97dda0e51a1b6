"""A log that is added to line by line; what a kill or a power cut leaves of it is fixed.

Nothing is thrown away: what is cut off, and what the lab did not write, is kept beside the file.
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
    """An empty log, on the disk when this returns."""
    log.touch()
    for made in (log, log.parent, log.parent.parent):
        sync(made)


def append(log: Path, line: Mapping[str, Any]) -> None:
    """Add a line, on the disk when this returns.

    Raises:
        OSError: If it cannot be written; then the log is as it was.
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
    """Cut a last line that was never whole off a log; a line that was is left as it is.

    A line is whole if it ends, and not in the NUL bytes of a power cut, or if only its end is
    missing; then it gets that. What is cut off is added to a file beside the log, with `.cut`.

    Args:
        log: The file; every line is JSON.

    Returns:
        What was cut off, in words; empty if nothing was.
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
    """Rename a file to one that is not there yet: with `.before`, `.before.2` and so on.

    Returns:
        Its new path.
    """
    names = (f"{path.name}.before" + f".{n}" * (n > 1) for n in count(1))
    kept = next(one for name in names if not (one := path.with_name(name)).exists())
    os.rename(path, kept)
    return kept


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
