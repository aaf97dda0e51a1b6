"""Resolves device and precision names, and `auto`, on this machine."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from dpo_lab.models.model_settings import Precision


def resolve_device(device: str) -> torch.device:
    """The device with a name; `auto` is the fastest available one.

    Raises:
        ValueError: If the machine has no such device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return torch.device(next(name for name, usable in available.items() if usable))
    if not available.get(device.split(":")[0], False):
        names = ", ".join(name for name, usable in available.items() if usable)
        raise ValueError(
            f"device={device!r}: this machine has {names}. Use 'auto' or one of these."
        )
    return torch.device(device)


def resolve_precision(precision: Precision, device: torch.device) -> Literal["float32", "bfloat16"]:
    """The precision to use for a setting.

    `auto` is bfloat16 autocast on CUDA devices that support it, else float32. Weights, the head,
    log-softmax, sums and losses are always float32. On a CPU without bfloat16 instructions,
    bfloat16 is hundreds of times slower than float32, so `auto` never chooses it there.

    Raises:
        ValueError: If the precision is unknown.
    """
    if precision not in get_args(Precision):
        raise ValueError(
            f"precision={precision!r}: the lab knows no such arithmetic. "
            f"Use one of {', '.join(get_args(Precision))}."
        )
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return "bfloat16" if fast else "float32"
    return precision
