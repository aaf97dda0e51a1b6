"""What the workbench is set to: values and what is wrong with them; no widget."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from traitlets import Dict, HasTraits, Instance, Unicode

from dpo_lab.training.config import TrainConfig

MID_RUN = ("beta", "learning_rate")
"""Settings that take effect in a run that is going on."""


class WorkbenchState(HasTraits):
    """The settings of the next run, and the state of the one that is shown.

    Attributes:
        config: Valid at every moment.
        problems: Field to words, for every value that was refused and not mended yet.
        phase: idle, or the state of the run.
    """

    config = Instance(TrainConfig)
    problems = Dict()
    phase = Unicode("idle")

    def __init__(self, config: TrainConfig):
        super().__init__(config=config)
        self._code = threading.local()

    @property
    def by_hand(self) -> bool:
        """Whether the change in progress comes from a person at the controls."""
        return not getattr(self._code, "at_work", False)

    @contextmanager
    def from_code(self) -> Iterator[None]:
        """Changes made meanwhile are not taken for a person's."""
        before, self._code.at_work = not self.by_hand, True
        try:
            yield
        finally:
            self._code.at_work = before

    def set(self, **changes: Any) -> bool:
        """Take new values, or refuse them in words.

        Returns:
            Whether they were taken.
        """
        try:
            config = replace(self.config, **changes)
        except (ValueError, TypeError, OverflowError) as error:
            # A message begins with the name of the field that it is about.
            named = str(error).split("=")[0]
            field = named if named in changes else next(iter(changes))
            self.refuse(field, str(error))
            return False
        self.problems = {f: words for f, words in self.problems.items() if f not in changes}
        self.config = config
        return True

    def refuse(self, field: str, words: str) -> None:
        """Note what is wrong with a value; the one before stays in force."""
        self.problems = {**self.problems, field: words}
