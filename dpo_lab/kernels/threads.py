"""How many threads a model is worth, and whether threads that wait sleep."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn

logger = logging.getLogger(__name__)

SMALL = 2_000_000
"""Weights of a model whose step is no faster on several threads than on one."""


_LOCK = threading.Lock()
_held: list[int] = []
"""The process's own number of threads, once for each caller that has set another."""


def own_threads() -> int:
    """Threads that the process has where nothing here has set another number."""
    with _LOCK:
        return _held[0] if _held else torch.get_num_threads()


def hold_threads() -> int:
    """Called before another number is set; `release_threads` ends it.

    Torch keeps the number for a thread, and gives the last one that was set to every thread that
    begins. So a run that begins beside another one finds the other's number.

    Returns:
        What this thread has.
    """
    with _LOCK:
        before = torch.get_num_threads()
        _held.append(_held[0] if _held else before)
        return before


def release_threads(before: int) -> None:
    """Set what this thread had; after the last caller, the process's own number.

    Args:
        before: From `hold_threads`.
    """
    with _LOCK:
        own = _held.pop()
        torch.set_num_threads(before if _held else own)


def threads_worth(model: nn.Module) -> int:
    """Threads that a model is trained with: one if it is small, else as many as the process has."""
    return 1 if is_small(model) else own_threads()


@contextmanager
def threads_for(model: nn.Module) -> Iterator[None]:
    """One thread for a small model: no slower, and the other cores are free to draw."""
    before = hold_threads()
    try:
        torch.set_num_threads(threads_worth(model))
        yield
    finally:
        release_threads(before)


def is_small(model: nn.Module) -> bool:
    """Whether calls, not arithmetic, take a model's time."""
    return sum(parameter.numel() for parameter in model.parameters()) < SMALL


def waits_passively() -> bool:
    """Whether threads sleep while they wait, and do not spin; decided when torch is loaded."""
    return sys.platform != "linux" or os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"


@cache
def say_that_threads_spin() -> None:
    """Warn, once a process, that its threads spin while they wait."""
    logger.warning(
        "OMP_WAIT_POLICY was not PASSIVE when torch was loaded, so its threads spin while they "
        "wait: on a busy machine a step can take several times as long. Begin the process with "
        "OMP_WAIT_POLICY=PASSIVE ('make lab' and 'dpo-lab' do), or call torch.set_num_threads(1)."
    )
