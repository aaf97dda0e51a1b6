"""Checksums of a checkpoint's files, kept beside them to detect later changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAME = "checksums.json"


def write_checksums(folder: Path, **facts: Any) -> None:
    """Write the checksum of every file in a folder, and some facts, to `checksums.json` there.

    Args:
        folder: The folder.
        **facts: JSON values to store with the checksums.
    """
    files = {str(p.relative_to(folder)): file_checksum(p) for p in _files(folder)}
    content = {"files": files, **facts}
    text = json.dumps({"content": content, "checksum": _of_content(content)}, indent=1)
    (folder / NAME).write_text(text + "\n")


def read_checksums(folder: Path) -> dict[str, Any] | None:
    """The content that `write_checksums` wrote; None without such a file.

    Raises:
        ValueError: If the file itself was changed.
    """
    path = folder / NAME
    try:
        record = json.loads(path.read_text())
        if record["checksum"] == _of_content(record["content"]):
            return record["content"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{path}: is not what was written, so nothing can be compared with it")


def check_files(folder: Path, wanted: Callable[[str], bool]) -> None:
    """Raise if files were changed or removed since their checksums were written.

    Args:
        folder: The folder; one without checksums passes.
        wanted: Whether to check the file with this name.

    Raises:
        ValueError: If a file is missing or was changed.
    """
    record = read_checksums(folder)
    for name, checksum in record["files"].items() if record else ():
        if wanted(name):
            path = folder / name
            if not path.exists():
                raise ValueError(f"{path}: is missing")
            if file_checksum(path) != checksum:
                raise ValueError(f"{path}: is not what was written (its checksum differs)")


def file_checksum(path: Path) -> str:
    """BLAKE2 of a file's bytes, 128 bits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != NAME)


def _of_content(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
