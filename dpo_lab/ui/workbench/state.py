"""Settings of the workbench and their error messages, without any widget."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from traitlets import Dict, HasTraits, Instance, Unicode

from dpo_lab.data.template_files import template_text
from dpo_lab.training.config import TrainConfig


class WorkbenchState(HasTraits):
    """The settings of the next run, and the state of the shown one.

    Attributes:
        config: The settings, always valid.
        problems: Field to error message, for each refused value that is not corrected yet.
        phase: `idle`, or the state of the shown run.
    """

    config = Instance(TrainConfig)
    problems = Dict()
    phase = Unicode("idle")

    def __init__(self, config: TrainConfig):
        check_template(config)
        super().__init__(config=config)
        self._code = threading.local()

    def value(self, field: str) -> Any:
        """The effective value of a setting."""
        return in_effect(self.config, field)

    @property
    def by_hand(self) -> bool:
        """Whether the change in progress comes from a user at the controls."""
        return not getattr(self._code, "at_work", False)

    @contextmanager
    def from_code(self) -> Iterator[None]:
        """Changes made in this context do not count as made by hand."""
        before, self._code.at_work = not self.by_hand, True
        try:
            yield
        finally:
            self._code.at_work = before

    def set(self, **changes: Any) -> bool:
        """Set new values, or refuse them with a message.

        Returns:
            Whether they were accepted.
        """
        try:
            config = replace(self.config, **changes)
            check_template(config, self.config)
        except (ValueError, TypeError, OverflowError, OSError) as error:
            # A message begins with the name of the field that it is about.
            named = str(error).split("=")[0]
            field = named if named in changes else next(iter(changes))
            self.refuse(field, str(error))
            return False
        self.problems = {f: words for f, words in self.problems.items() if f not in changes}
        self.config = config
        return True

    def refuse(self, field: str, words: str) -> None:
        """Record the error message of a value; the previous value stays in force."""
        self.problems = {**self.problems, field: words}


def in_effect(config: TrainConfig, field: str) -> Any:
    """The effective value of a setting: if it is `None`, the model's default, if there is one.

    A chat template stays the name of its file; the file is not read.
    """
    value = getattr(config, field)
    if value is not None:
        return value
    return getattr(replace(config, chat_template=None).resolved(), field)


def check_template(config: TrainConfig, before: TrainConfig | None = None) -> None:
    """Refuse a chat template that cannot be read, unless it was set before.

    Raises:
        OSError: If there is no such file.
        ValueError: If it holds no template.
    """
    template = config.chat_template
    if template and (before is None or template != before.chat_template):
        template_text(template)
