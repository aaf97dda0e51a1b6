"""Checksums of a checkpoint's files, beside them: what was touched since is found out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAME = "checksums.json"


def write_checksums(folder: Path, **facts: Any) -> None:
    """Note the checksum of every file in a folder, and facts that belong to them.

    Args:
        folder: The folder.
        **facts: Plain values.
    """
    files = {str(p.relative_to(folder)): file_checksum(p) for p in _files(folder)}
    content = {"files": files, **facts}
    text = json.dumps({"content": content, "checksum": _of_content(content)}, indent=1)
    (folder / NAME).write_text(text + "\n")


def read_checksums(folder: Path) -> dict[str, Any] | None:
    """What `write_checksums` noted; none where there is no such file.

    Raises:
        ValueError: If the file itself was touched.
    """
    path = folder / NAME
    try:
        noted = json.loads(path.read_text())
        if noted["checksum"] == _of_content(noted["content"]):
            return noted["content"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{path}: is not what was written, so nothing can be compared with it")


def check_files(folder: Path, wanted: Callable[[str], bool]) -> None:
    """Refuse files that are not what was written.

    Args:
        folder: The folder; one without checksums passes.
        wanted: Whether a file of that name is to be looked at.

    Raises:
        ValueError: If one is missing or was touched.
    """
    noted = read_checksums(folder)
    for name, checksum in noted["files"].items() if noted else ():
        if wanted(name):
            path = folder / name
            if not path.exists():
                raise ValueError(f"{path}: is missing")
            if file_checksum(path) != checksum:
                raise ValueError(f"{path}: is not what was written (its checksum is another)")


def file_checksum(path: Path) -> str:
    """BLAKE2 of a file's bytes, 128 bits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != NAME)


def _of_content(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
