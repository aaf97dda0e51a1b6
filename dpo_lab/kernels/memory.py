"""The process's memory: how much it took at most, and freed blocks kept for the next step."""

from __future__ import annotations

import ctypes
import resource
import sys

import torch

_M_MMAP_MAX, _M_TRIM_THRESHOLD, _M_TOP_PAD, _M_ARENA_MAX = -4, -1, -2, -8


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks instead of returning them to the system.

    Returned, they come back as fresh pages that the kernel clears one by one, in every step.
    One arena serves the backward pass's thread too. Elsewhere than on glibc nothing happens.
    """
    libc = _libc()
    if libc:
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_TOP_PAD, 64 << 20)
        libc.mallopt(_M_ARENA_MAX, 1)


def release_freed_memory() -> None:
    """Return what is kept and unused to the system."""
    libc = _libc()
    if libc:
        libc.malloc_trim(0)


def peak_memory(device: torch.device) -> float:
    """Most memory held so far, GB: of the device on CUDA, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _libc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
