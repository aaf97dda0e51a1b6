"""Hides the progress bars of transformers, since the lab reports progress itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging

_LOCK = threading.Lock()
_BLOCKS: list[bool] = []
"""One entry per block inside `no_bars`: whether bars were enabled before the first block."""


@contextmanager
def no_bars() -> Iterator[None]:
    """Hide transformers' progress bars in the terminal and the notebook.

    One switch serves all threads. It is restored when the last block ends, so that bars do not
    appear in one thread because another thread has finished.
    """
    with _LOCK:
        shown = _BLOCKS[0] if _BLOCKS else transformers_logging.is_progress_bar_enabled()
        _BLOCKS.append(shown)
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        with _LOCK:
            _BLOCKS.pop()
            if shown and not _BLOCKS:
                transformers_logging.enable_progress_bar()
