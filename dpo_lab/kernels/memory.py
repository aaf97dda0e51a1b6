"""Peak memory of the process or device; glibc settings that keep freed memory, or return it."""

from __future__ import annotations

import ctypes
import resource
import sys

import torch

_M_MMAP_MAX, _M_TRIM_THRESHOLD, _M_TOP_PAD, _M_ARENA_MAX = -4, -1, -2, -8
_M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks instead of returning them to the system.

    Otherwise each step gets the memory back as new pages, which the kernel must clear one by one.
    One arena is shared with the backward pass's thread. Without glibc this does nothing.
    """
    libc = _libc()
    if libc:
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_TOP_PAD, 64 << 20)
        libc.mallopt(_M_ARENA_MAX, 1)


def return_freed_memory() -> None:
    """Let glibc return large freed blocks at once, where memory counts for more than time.

    Blocks that come and go, such as gathered weights, otherwise leave holes: with weights divided
    between two processes the heap grew to three times what was in use.
    """
    libc = _libc()
    if libc:
        libc.mallopt(_M_MMAP_MAX, 1 << 16)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def release_freed_memory() -> None:
    """Return kept memory that is unused to the system."""
    libc = _libc()
    if libc:
        libc.malloc_trim(0)


def peak_memory(device: torch.device) -> float:
    """Peak memory so far, GB: allocated on the device for CUDA, else resident in the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _libc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
