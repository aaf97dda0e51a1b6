"""Progress bars of other libraries, which the lab has no use for: it tells progress itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging

_LOCK = threading.Lock()
_KEEPING: list[bool] = []
"""One entry a block that is inside `no_bars`: whether bars were shown before the first."""


@contextmanager
def no_bars() -> Iterator[None]:
    """Keep transformers' own progress bars out of the terminal and the notebook.

    Whether they are shown is one switch for all threads: it is put back when the last block ends,
    so that a model loaded in one thread shows none because another has finished.
    """
    with _LOCK:
        shown = _KEEPING[0] if _KEEPING else transformers_logging.is_progress_bar_enabled()
        _KEEPING.append(shown)
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        with _LOCK:
            _KEEPING.pop()
            if shown and not _KEEPING:
                transformers_logging.enable_progress_bar()
