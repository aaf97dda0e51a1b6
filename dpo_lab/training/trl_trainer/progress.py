"""A bar for what a trainer does before it trains: scoring the pairs with the reference."""

from __future__ import annotations

from typing import Any

from transformers.utils import logging


class Bars:
    """A bar for each piece of work, for `prepare(progress=...)`.

    Args:
        shown: Whether to draw any.
    """

    def __init__(self, shown: bool):
        self.shown = shown
        self._name, self._bar, self._done = "", None, 0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Move the bar of a piece of work; the last move closes it."""
        if not self.shown or not total:
            return
        if what != self._name:
            self.close()
            bar: Any = logging.tqdm(total=total, desc=what)
            self._name, self._bar, self._done = what, bar, 0
        if self._bar is not None:
            self._bar.update(done - self._done)
            self._done = done
        if done >= total:
            self.close()

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
        self._name, self._bar = "", None
