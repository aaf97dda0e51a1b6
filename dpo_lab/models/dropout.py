"""No random numbers in a forward pass, so that policy and reference differ by their weights alone.

A policy is trained in evaluation mode, where nothing is dropped; gradient checkpointing, which
`transformers` ties to training mode, gets that mode for the layers that it goes through alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

_NO_NOISE = ("router_jitter_noise",)
"""PhiMoE's: a threshold of its router, in evaluation mode too."""


def disable_dropout(model: nn.Module) -> Callable[[], None]:
    """Set every dropout to zero.

    Modules are set to probability zero, and so are the float attributes that act without any module
    in training mode: `attention_dropout`, `layerdrop`, a router's `jitter_noise` and their like.

    Returns:
        What gives all of them their values again.
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
    """Evaluation mode for a model that is trained; dropout must be disabled already.

    Args:
        model: A `transformers` model, with an adapter or without.
        checkpointing: Whether its layers go through gradient checkpointing.
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
    """Evaluation mode for all of a model; afterwards each module has its own mode again.

    In training mode, gradient checkpointing leaves the cache of past tokens empty.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _zero_floats(owner: object) -> list[tuple[object, str, float]]:
    """Set them to zero; whose they are, their names and what they were."""
    before = []
    for name, value in list(vars(owner).items()):
        random = "drop" in name or ("jitter" in name and name not in _NO_NOISE)
        if random and isinstance(value, float):
            before.append((owner, name, value))
            setattr(owner, name, 0.0)
    return before
