"""The lines of a run's record files: read, compared with what was written, cut back."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LINE_FILES = ("metrics.jsonl", "timing.jsonl", "samples.jsonl")


def read_rows(path: Path, up_to: int | None = None) -> list[dict[str, Any]]:
    """Objects of a file, one a line; a last line that a kill cut short is left out.

    Args:
        path: The file; none is no row.
        up_to: Stop before the first row of a later step.

    Raises:
        ValueError: If a line in the middle is broken: that was no kill.
    """
    rows, lines = [], path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            if any(rest.strip() for rest in lines[number:]):
                raise ValueError(
                    f"{path}: line {number} is broken, though whole lines follow; those before it "
                    f"are whole, {_until(rows)}. {WAY_OUT}"
                )
            break
        if up_to is not None and row["step"] > up_to:
            break
        rows.append(row)
    return rows


def line_checksums(path: Path) -> str:
    """CRC-32 of every line of a file, eight hexadecimal digits each, one after the other."""
    text = path.read_bytes() if path.exists() else b""
    return "".join(f"{zlib.crc32(line):08x}" for line in text.splitlines(keepends=True))


def check_lines(path: Path, noted: str) -> None:
    """Refuse a file that does not begin with the lines that were written.

    Args:
        path: The file.
        noted: What `line_checksums` gave when they were.

    Raises:
        ValueError: With the first line that is another, or that is missing.
    """
    now = line_checksums(path)
    for place in range(0, len(noted), 8):
        if now[place : place + 8] != noted[place : place + 8]:
            number = place // 8 + 1
            what = "is not what was written" if len(now) > place else "is missing"
            try:
                before = _until(read_rows(path)[: number - 1])
            except ValueError:
                before = "up to there"
            raise ValueError(
                f"{path}: line {number} of {len(noted) // 8} {what}; those before it agree, "
                f"{before}. {WAY_OUT}"
            )


def cut_back(path: Path, noted: str) -> str:
    """The text of the lines that were written, without those after them."""
    text = path.read_bytes() if path.exists() else b""
    return b"".join(text.splitlines(keepends=True)[: len(noted) // 8]).decode()


def check_steps(path: Path, rows: list[Mapping[str, Any]]) -> None:
    """Refuse rows that do not follow each other, a step at a time.

    Raises:
        ValueError: If a step is missing, or comes twice.
    """
    for before, row in zip([{"step": -1}, *rows], rows, strict=False):
        # A run without evaluations begins at 1; earlier versions wrote step 0 twice where a run was
        # stopped there.
        allowed = {-1: (0, 1), 0: (0, 1)}.get(before["step"], (before["step"] + 1,))
        if row["step"] not in allowed:
            raise ValueError(
                f"{path}: step {row['step']} follows step {before['step']}: lines are missing, or "
                f"come twice. {WAY_OUT}"
            )


WAY_OUT = (
    "Put a copy of the file back; or remove the folder checkpoint, and a resumed run is computed "
    "again from its beginning."
)
"""What to do about a folder that was touched."""


def _until(rows: list[Mapping[str, Any]]) -> str:
    return f"up to step {rows[-1]['step']}" if rows else "none"
