"""How many threads a model is worth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

SMALL = 2_000_000
"""Weights of a model whose step is no faster on several threads than on one."""


@contextmanager
def threads_for(model: nn.Module) -> Iterator[None]:
    """One thread for a small model: no slower, and the other cores are free to draw."""
    before = torch.get_num_threads()
    if is_small(model):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_small(model: nn.Module) -> bool:
    """Whether calls, not arithmetic, take a model's time."""
    return sum(parameter.numel() for parameter in model.parameters()) < SMALL
