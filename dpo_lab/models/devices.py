"""Device and arithmetic by name: what the machine has, and what is fastest on it."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from dpo_lab.models.choices import Precision


def resolve_device(device: str) -> torch.device:
    """The device meant by a name; `auto` is the fastest there is.

    Raises:
        ValueError: If the machine has no such device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available.get(device.split(":")[0], False):
        there = ", ".join(name for name, there in available.items() if there)
        raise ValueError(
            f"device={device!r}: this machine has {there}. Use 'auto' or one of these."
        )
    return torch.device(device)


def resolve_precision(precision: Precision, device: torch.device) -> Literal["float32", "bfloat16"]:
    """The arithmetic meant by a name.

    `auto` is bfloat16 autocast on CUDA that has it, else float32. Weights, the head, log-softmax,
    sums and losses are float32 either way. On a CPU, bfloat16 is hundreds of times slower than
    float32 unless it has instructions for it, so `auto` never picks it there.

    Raises:
        ValueError: If there is no such precision.
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
