"""JSON-lines files of a run: read, check against checksums, cut back to a checkpoint."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LINE_FILES = ("metrics.jsonl", "timing.jsonl", "samples.jsonl")


def read_rows(path: Path, up_to: int | None = None) -> list[dict[str, Any]]:
    """The objects in a file, one per line; a last line that a kill cut short is left out.

    Args:
        path: The file; a missing file has no rows.
        up_to: Stop before the first row of a later step.

    Raises:
        ValueError: If a line before the last one is broken, which a kill cannot cause.
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
                    f"{path}: line {number} is broken, though other lines follow; those before it "
                    f"are intact, {_until(rows)}. {WAY_OUT}"
                )
            break
        if up_to is not None and row["step"] > up_to:
            break
        rows.append(row)
    return rows


def line_checksums(path: Path) -> str:
    """CRC-32 of every line of a file, eight hexadecimal digits each, concatenated."""
    text = path.read_bytes() if path.exists() else b""
    return "".join(f"{zlib.crc32(line):08x}" for line in text.splitlines(keepends=True))


def check_lines(path: Path, noted: str) -> None:
    """Raise if a file does not start with the lines that were written.

    Args:
        path: The file.
        noted: The result of `line_checksums` when they were written.

    Raises:
        ValueError: Naming the first line that differs or is missing.
    """
    now = line_checksums(path)
    for start in range(0, len(noted), 8):
        if now[start : start + 8] != noted[start : start + 8]:
            number = start // 8 + 1
            what = "is not what was written" if len(now) > start else "is missing"
            try:
                before = _until(read_rows(path)[: number - 1])
            except ValueError:
                before = "up to there"
            raise ValueError(
                f"{path}: line {number} of {len(noted) // 8} {what}; those before it agree, "
                f"{before}. {WAY_OUT}"
            )


def cut_back(path: Path, noted: str) -> str:
    """The text of the lines with checksums, without any later lines."""
    text = path.read_bytes() if path.exists() else b""
    return b"".join(text.splitlines(keepends=True)[: len(noted) // 8]).decode()


def check_steps(path: Path, rows: list[Mapping[str, Any]]) -> None:
    """Raise if the steps of rows are not consecutive.

    Raises:
        ValueError: If a step is missing or repeated.
    """
    for before, row in zip([{"step": -1}, *rows], rows, strict=False):
        # A run without evaluations starts at 1; earlier versions wrote step 0 twice if a run was
        # stopped there.
        allowed = {-1: (0, 1), 0: (0, 1)}.get(before["step"], (before["step"] + 1,))
        if row["step"] not in allowed:
            raise ValueError(
                f"{path}: step {row['step']} follows step {before['step']}: lines are missing or "
                f"repeated. {WAY_OUT}"
            )


WAY_OUT = (
    "Put a copy of the file back; or remove the folder checkpoint, and a resumed run starts again "
    "from step 0."
)
"""Advice in errors about a folder that was changed."""


def _until(rows: list[Mapping[str, Any]]) -> str:
    return f"up to step {rows[-1]['step']}" if rows else "none"
