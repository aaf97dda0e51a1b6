"""DPO Lab: understand and steer Direct Preference Optimization.

    from dpo_lab import TrainConfig, Workbench, logps, prepare, train

Importing it loads nothing else: each name brings its module when it is first used. The names stand
in `__init__.pyi`, where type checkers read them too.
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import Any


def _homes() -> dict[str, str]:
    """Public names, each with its module."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


_HOMES = _homes()

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604  what it lists comes from the stub


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value = version("dpo-lab")
    elif name in _HOMES:
        home = import_module(_HOMES[name])
        # One that is no attribute is a module of that folder.
        value = getattr(home, name, None) or import_module(f"{_HOMES[name]}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
