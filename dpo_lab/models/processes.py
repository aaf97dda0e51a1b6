"""The processes that work on one run: who they are, dividing work, bringing results together.

They are started by `dpo-lab train --processes`, torchrun, `accelerate launch` or SLURM's `srun`,
whose environment variables say how many there are. One process alone is the same code with nothing
to exchange.
"""

from __future__ import annotations

import atexit
import gc
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
_BROKEN = re.compile(r"gloo/|NCCL|[Cc]onnection (closed|reset) by peer")
"""In the error of a collective of torch's own that another process has left."""
TIME_LIMIT = timedelta(minutes=30)
"""Longest wait for another process: longer than any step, evaluation or checkpoint should take."""
BUCKET = 4_000_000
"""Most numbers that are exchanged together; a larger tensor is exchanged alone, without a copy."""
SLURM = {
    "RANK": "SLURM_PROCID",
    "WORLD_SIZE": "SLURM_STEP_NUM_TASKS",
    "LOCAL_RANK": "SLURM_LOCALID",
}
"""Torch's variables and what `srun` calls them. Outside `srun`, in a batch script, the number of
tasks of a step is not set: a process there is alone."""


class LostProcess(RuntimeError):
    """Another process of the run has ended or does not answer."""

    exit_code = 4


class FirstFailed(RuntimeError):
    """The first process failed with this error; it says so itself."""

    exit_code = 4


@dataclass(frozen=True)
class Processes:
    """This process's place among those that work on one run.

    Attributes:
        rank: Number of this process, from 0.
        count: Number of processes.
        group: torch.distributed's group for objects and CPU tensors; None is the default group.
    """

    rank: int = 0
    count: int = 1
    group: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes the run's folder and talks to the user."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there is anyone to exchange with."""
        return self.count > 1

    def mine(self, items: Sequence[T]) -> list[T]:
        """Every `count`-th item, from this process's rank on."""
        return list(items[self.rank :: self.count])

    def gather(self, value: T) -> list[T]:
        """The value of every process, by rank.

        Raises:
            LostProcess: If one of them has ended.
        """
        if not self.several:
            return [value]
        values: list[Any] = [None] * self.count
        with _naming_the_lost():
            dist.all_gather_object(values, value, group=self.group)
        return values

    def from_first(self, value: Callable[[], T]) -> T:
        """What a function returns in the first process; the others do not call it.

        Raises:
            FirstFailed: With the first process's error, in the others.
        """
        if not self.several:
            return value()
        box: list[Any] = [None, None]
        error: BaseException | None = None
        if self.first:
            try:
                box[0] = value()
            except Exception as caught:
                error, box[1] = caught, str(caught) or type(caught).__name__
        with _naming_the_lost():
            dist.broadcast_object_list(box, src=0, group=self.group)
        if error is not None:
            raise error
        if box[1] is not None:
            raise FirstFailed(box[1])
        return box[0]

    def each(self, items: Sequence[Any], work: Callable[[list[Any]], Sequence[T]]) -> list[T]:
        """The results of all items, in order; each process works on its own share.

        Args:
            items: The same in all processes.
            work: Called with a part of them; returns one result for each.
        """
        parts = self.gather(list(work(self.mine(items))))
        results: list[Any] = [None] * len(items)
        for rank, part in enumerate(parts):
            results[rank :: self.count] = part
        return results

    def joined(self, size: int, rows: Sequence[int], values: Tensor) -> Tensor:
        """Rows of a vector from all processes.

        Args:
            size: Length of the vector.
            rows: Indices that this process has computed.
            values: `(rows,)`, on the CPU.

        Returns:
            `(size,)`.

        Raises:
            RuntimeError: If a row was computed twice, or not at all.
        """
        whole, written = values.new_full((size,), torch.nan), torch.zeros(size, dtype=torch.int)
        for theirs, numbers in self.gather((torch.tensor(rows, dtype=torch.long), values)):
            whole[theirs] = numbers
            written.index_add_(0, theirs, torch.ones_like(theirs, dtype=torch.int))
        if bad := int((written != 1).sum()):
            raise RuntimeError(f"{bad} of {size} rows were not computed exactly once.")
        return whole

    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor with its sum over all processes; they have the same shapes in all."""
        if not self.several:
            return
        with _naming_the_lost():
            for bucket in _buckets(tensors):
                if len(bucket) == 1:
                    dist.all_reduce(bucket[0])
                    continue
                flat = torch.cat([tensor.flatten() for tensor in bucket])
                dist.all_reduce(flat)
                parts = flat.split([tensor.numel() for tensor in bucket])
                shaped = [p.view_as(t) for p, t in zip(parts, bucket, strict=True)]
                torch._foreach_copy_(bucket, shaped)

    @contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        """Inside this context, a collective inside torch that another process has left is named.

        Raises:
            LostProcess: Instead of torch's error.
        """
        try:
            yield
        except RuntimeError as error:
            broken = isinstance(error, dist.DistError) or _BROKEN.search(str(error))
            if not self.several or isinstance(error, LostProcess) or not broken:
                raise
            raise LostProcess(_LOST) from error

    def agree(self, what: str, value: Any) -> None:
        """Raise if a value is not the same in all processes.

        Raises:
            ValueError: Naming it.
        """
        values = self.gather(value)
        if any(other != values[0] for other in values):
            raise ValueError(
                f"{what}: not the same in the {self.count} processes of this run. Give all of them "
                "the same files and settings."
            )


ALONE = Processes()
_LOST = (
    "another process of this run has ended or does not answer. Its own message says why; go on "
    "from the last checkpoint with --resume."
)


def launched() -> int:
    """How many processes the launcher has started for this run, by its environment variables."""
    _translate_slurm()
    return int(os.environ.get("WORLD_SIZE") or 1)


def join_processes() -> Processes:
    """The processes of this run, joined on the first call; one alone without a launcher.

    Raises:
        LostProcess: If the others do not come within the time limit.
    """
    if not dist.is_initialized() and launched() == 1:
        return ALONE
    if not dist.is_initialized():
        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank() % torch.cuda.device_count())
            backend = "cpu:gloo,cuda:nccl"
        with _naming_the_lost():
            dist.init_process_group(backend, timeout=TIME_LIMIT)
    group = None if dist.get_backend() == "gloo" else _object_group()
    return Processes(dist.get_rank(), dist.get_world_size(), group)


def leave_processes() -> None:
    """Part from the other processes, the last thing that all of them do together.

    A process that ends without this can abort, because a thread of torch's finds another one gone.
    """
    if dist.is_initialized():
        join_processes().gather(None)
        dist.destroy_process_group()
        _groups.clear()
        # A divided model holds torch's groups, and a group that is still there when the
        # interpreter takes itself apart aborts the process.
        atexit.register(gc.collect)


def local_rank() -> int:
    """This process's number on its machine, which decides its GPU."""
    return int(os.environ.get("LOCAL_RANK") or 0)


_groups: dict[str, Any] = {}


def _object_group() -> Any:
    """A group of all processes that exchanges over the CPU."""
    if "cpu" not in _groups:
        _groups["cpu"] = dist.new_group(backend="gloo", timeout=TIME_LIMIT)
    return _groups["cpu"]


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one type, in order, of at most `BUCKET` numbers together."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        fits = size + tensor.numel() <= BUCKET
        if bucket and not (fits and tensor.dtype == bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket


def _translate_slurm() -> None:
    """Give the variables of `srun` torch's names, where no launcher has set these."""
    if "RANK" in os.environ or int(os.environ.get(SLURM["WORLD_SIZE"], 1)) == 1:
        return
    os.environ |= {name: os.environ[theirs] for name, theirs in SLURM.items()}
    nodes = os.environ["SLURM_STEP_NODELIST"]
    if "MASTER_ADDR" not in os.environ:
        command = ["scontrol", "show", "hostnames", nodes]
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        os.environ["MASTER_ADDR"] = names[0]
    os.environ.setdefault("MASTER_PORT", str(20_000 + int(os.environ["SLURM_JOB_ID"]) % 20_000))


@contextmanager
def _naming_the_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's DistError is one
        raise LostProcess(_LOST) from error
