"""Disables dropout, so that policy and reference differ by their weights only.

A policy is trained in evaluation mode, where nothing is dropped. `transformers` ties gradient
checkpointing to training mode, so only the checkpointed layers are put in that mode.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

_NO_NOISE = ("router_jitter_noise",)
"""Not random despite its name: a threshold of PhiMoE's router, used in evaluation mode too."""


def disable_dropout(model: nn.Module) -> Callable[[], None]:
    """Set every dropout probability to zero.

    This covers dropout modules, and float attributes that act in training mode without a module:
    `attention_dropout`, `layerdrop`, a router's `jitter_noise` and similar.

    Returns:
        A function that restores all values.
    """
    before = []
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            before.append((module, "p", module.p))
            module.p = 0.0
        before += _zero_floats(module)

    def restore() -> None:
        for owner, name, value in before:
            setattr(owner, name, value)

    return restore


def evaluation_mode(model: nn.Module, checkpointing: bool = False) -> None:
    """Put a model in evaluation mode for training; dropout must already be disabled.

    Args:
        model: A `transformers` model, with or without an adapter.
        checkpointing: Whether its layers use gradient checkpointing.
    """
    model.eval()
    if not checkpointing:
        return
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True
            if "config" in vars(module) and not hasattr(module, "save_pretrained"):
                # Falcon's layers read their dropout here; the model's own configuration is saved.
                module.config = copy.copy(module.config)
                _zero_floats(module.config)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the whole model in evaluation mode; each module's mode is restored afterwards.

    In training mode, gradient checkpointing would leave the key-value cache empty.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _zero_floats(owner: object) -> list[tuple[object, str, float]]:
    """Zero an object's dropout and jitter attributes; returns (owner, name, old value) of each."""
    before = []
    for name, value in list(vars(owner).items()):
        random = "drop" in name or ("jitter" in name and name not in _NO_NOISE)
        if random and isinstance(value, float):
            before.append((owner, name, value))
            setattr(owner, name, 0.0)
    return before
