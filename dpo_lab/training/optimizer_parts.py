"""The optimiser's state of a run whose weights are divided: each process writes its part.

By torch's distributed checkpoints, in safetensors: no file can run code, and any number of
processes, with the weights divided or not, reads what another number wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from dpo_lab.models.processes import Processes

FOLDER = "optimizer"
STEP = "step"


def write_parts(
    optimizer: torch.optim.Optimizer,
    weights: Mapping[str, nn.Parameter],
    folder: Path,
    processes: Processes,
) -> dict[str, float]:
    """Write the state of all weights; all processes call this.

    Args:
        optimizer: The optimiser.
        weights: The weights that it trains, by name.
        folder: Where to; it is made.
        processes: Those that hold the parts.

    Returns:
        How many steps each weight has had, by name, which is not written.

    Raises:
        OSError: If a process cannot write.
    """
    import torch.distributed.checkpoint as dcp

    state, steps = {}, {}
    for name, weight in weights.items():
        values = dict(optimizer.state.get(weight, {}))
        if values:
            steps[name] = float(values.pop(STEP))
        state |= {f"{name}.{key}": value for key, value in values.items()}
    if state:
        writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
        with _in_words(OSError):
            dcp.save(state, storage_writer=writer, process_group=processes.group)
    return steps


def read_parts(
    optimizer: torch.optim.Optimizer,
    weights: Mapping[str, nn.Parameter],
    folder: Path,
    steps: Mapping[str, float],
    processes: Processes,
) -> None:
    """Load what `write_parts` wrote; each process reads what belongs to its weights.

    Raises:
        ValueError: If the state is of other weights.
    """
    import torch.distributed.checkpoint as dcp

    if not steps:
        return
    reader = dcp.HuggingFaceStorageReader(str(folder))
    saved = reader.read_metadata().state_dict_metadata
    state: dict[str, Tensor] = {}
    for key, described in saved.items():
        weight = weights.get(key.rpartition(".")[0])
        if weight is None or weight.shape != described.size:
            raise ValueError(f"{key} belongs to no weight of this run")
        state[key] = torch.zeros_like(weight)
    with _in_words(ValueError):
        if processes.several:
            dcp.load(state, storage_reader=reader, process_group=processes.group)
        else:
            dcp.load(state, storage_reader=reader, no_dist=True)
    for name, count in steps.items():
        optimizer.state[weights[name]] = {STEP: torch.tensor(count)}
    for key, value in state.items():
        name, _, kind = key.rpartition(".")
        optimizer.state[weights[name]][kind] = value


@contextmanager
def _in_words(kind: type[Exception]) -> Iterator[None]:
    """Raise this exception for the first process's failure; torch's own is no `Exception`."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        rank, (reason, _) = min(error.failures.items())
        if isinstance(reason, RuntimeError):  # another process is lost, perhaps
            raise reason from error
        raise kind(f"rank {rank}: {reason}") from error
