"""Number of torch threads for a model, and whether waiting OpenMP threads sleep or spin."""

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
"""A model with fewer weights than this trains no faster on several threads than on one."""


_LOCK = threading.Lock()
_held: list[int] = []
"""The process's own number of threads, one entry for each caller that holds another number."""


def own_threads() -> int:
    """The process's own number of torch threads, ignoring numbers set by runs."""
    with _LOCK:
        return _held[0] if _held else torch.get_num_threads()


def hold_threads() -> int:
    """Remember the process's own number before setting another; `release_threads` undoes it.

    Torch keeps one number per thread, and a new thread starts with the number that was set last.
    So a run that starts beside another run would take over that run's number.

    Returns:
        The number that this thread has.
    """
    with _LOCK:
        before = torch.get_num_threads()
        _held.append(_held[0] if _held else before)
        return before


def release_threads(before: int) -> None:
    """Restore this thread's number; after the last holder, the process's own number.

    Args:
        before: The result of `hold_threads`.
    """
    with _LOCK:
        own = _held.pop()
        torch.set_num_threads(before if _held else own)


def threads_worth(model: nn.Module) -> int:
    """Threads to train a model with: one if it is small, else the process's own number."""
    return 1 if is_small(model) else own_threads()


@contextmanager
def threads_for(model: nn.Module) -> Iterator[None]:
    """Use one thread for a small model: as fast, and other cores stay free for drawing figures."""
    before = hold_threads()
    try:
        torch.set_num_threads(threads_worth(model))
        yield
    finally:
        release_threads(before)


def is_small(model: nn.Module) -> bool:
    """Whether call overhead, not arithmetic, dominates a model's time."""
    return sum(parameter.numel() for parameter in model.parameters()) < SMALL


def waits_passively() -> bool:
    """Whether OpenMP threads sleep while they wait instead of spinning; fixed when torch loads."""
    return sys.platform != "linux" or os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"


@cache
def say_that_threads_spin() -> None:
    """Warn, once per process, that its threads spin while they wait."""
    logger.warning(
        "OMP_WAIT_POLICY was not PASSIVE when torch was loaded, so its threads spin while they "
        "wait: on a busy machine a step can take several times as long. Start the process with "
        "OMP_WAIT_POLICY=PASSIVE ('make lab' and 'dpo-lab' do), or call torch.set_num_threads(1)."
    )
