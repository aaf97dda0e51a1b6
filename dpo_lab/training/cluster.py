"""Runs of a sweep as tasks of a Ray cluster, in a folder that all its machines see.

A lost machine costs the steps since the last checkpoint: Ray starts the task again elsewhere, and
the run resumes.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dpo_lab.models.reference_cache import ReferenceCache
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.control import RunControl
from dpo_lab.training.run_job import StoppedBeforeTraining, run_job
from dpo_lab.training.runs import FolderTaken

RETRIES = 3
"""How often a task is started again whose process or machine was lost."""
PATIENCE = 60.0
"""Seconds in which a lost machine's process gives its folder free."""
TICK = 1.0
"""Seconds between two looks at the runs in progress."""
PASSED_ON = ("HF_HUB_OFFLINE", "HF_HOME", "DPO_LAB_CACHE", "OMP_WAIT_POLICY")
"""Environment variables that tasks get from here; no token, which Ray would show."""


Score = Callable[[list[TrainConfig], ReferenceCache], None]


@contextmanager
def connected(address: str | None, gpus: float) -> Iterator[None]:
    """A connection to a Ray cluster; one that this process has already is left open.

    Args:
        address: Of the cluster: `auto`, or `host:port`; None starts one on this machine.
        gpus: GPUs that a task will ask for.

    Raises:
        ValueError: If Ray is not installed, no cluster is there, or no machine has these GPUs.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise ValueError(
            "engine ray: Ray is not installed. pip install 'dpo-lab[cluster]', on every machine."
        ) from None
    ours = not ray.is_initialized()
    if ours:
        try:
            _knock(address)
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR)
        except OSError as error:
            raise ValueError(
                f"address {address!r}: no Ray cluster is there ({error}). Start one with "
                "'ray start --head', or leave the address out."
            ) from error
    try:
        most = max(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"])
        if gpus > most:
            raise ValueError(
                f"gpus_per_run={gpus:g}: no machine of the cluster has more than {most:g} GPUs. "
                "Give fewer."
            )
        yield
    finally:
        if ours:
            ray.shutdown()


def _knock(address: str | None) -> None:
    """Raise OSError if nobody answers at `host:port`, where Ray would try for minutes."""
    if "://" in (address or ""):
        raise OSError("give auto or host:port, on a machine of the cluster")
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def run_all(
    calls: Mapping[str, tuple[TrainConfig, Path]],
    score: Score,
    snapshot: Path,
    gpus: float,
    done: Callable[[str], None],
    tick: Callable[[list[str]], None] | None = None,
) -> dict[str, str]:
    """Score the reference once, then run every call as a task; call it while `connected`.

    Args:
        calls: Settings and folder of each run, by name.
        score: Fills a cache with the reference values that the runs will ask for.
        snapshot: File of those values that all runs read.
        gpus: GPUs of each task.
        done: Called with the name of each run that has succeeded.
        tick: Called about once a second with the names of the runs that have not ended.

    Returns:
        Error messages of failed runs, by name.
    """
    import ray
    from ray.exceptions import RayError

    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    if "DPO_LAB_CACHE" in passed_on:
        passed_on["DPO_LAB_CACHE"] = os.path.abspath(passed_on["DPO_LAB_CACHE"])
    options: dict[str, Any] = {
        "num_cpus": 1,
        "num_gpus": gpus,
        "max_retries": RETRIES,
        "runtime_env": {"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"} | passed_on},
    }
    configs = [config for config, _ in calls.values()]
    try:
        task = ray.remote(**options)(_score)
        scoring = task.remote(score, configs, snapshot.resolve(), Path.cwd())
        while not _ended([scoring]):
            pass
        ray.get(scoring)
    except RayError as error:
        raise RuntimeError(f"the reference was not scored: {_reason(error)}") from error
    task = ray.remote(**options)(_train)
    waiting = {
        task.remote(config, path.resolve(), snapshot.resolve(), Path.cwd()): name
        for name, (config, path) in calls.items()
    }
    failed = {}
    try:
        while waiting:
            for reference in _ended(list(waiting)):
                name = waiting.pop(reference)
                try:
                    ray.get(reference)
                    done(name)
                except RayError as error:
                    failed[name] = _reason(error)
            if tick:
                tick(list(waiting.values()))
    finally:
        for reference in waiting:
            ray.cancel(reference)
        if waiting:
            ray.wait(list(waiting), num_returns=len(waiting), timeout=10)
    return failed


def _ended(references: list) -> list:
    """Tasks that have ended, after `TICK` at the latest.

    It does not wait in Ray, which turns the exit code of a signal into 1.
    """
    import ray

    last = time.monotonic() + TICK
    while not (ready := ray.wait(references, timeout=0)[0]) and time.monotonic() < last:
        time.sleep(0.05)
    return ready


def _score(score: Score, configs: list[TrainConfig], snapshot: Path, home: Path) -> None:
    """A task: score the reference, and write what the runs will read.

    Args:
        score: As for `run_all`.
        configs: Settings of the runs.
        snapshot: The file, which appears when it is complete. Values that are in it already are
            not computed again.
        home: Folder from which relative paths are meant, where this machine has it.
    """
    _begin(home)
    with tempfile.TemporaryDirectory(prefix="dpo-lab-") as scratch:
        cache = ReferenceCache(Path(scratch) / snapshot.name)
        if snapshot.exists():
            shutil.copyfile(snapshot, cache.path)
        score(configs, cache)
        snapshot.parent.mkdir(parents=True, exist_ok=True)
        part = snapshot.with_name(f"{snapshot.name}.{os.getpid()}")
        shutil.copyfile(cache.path, part)
        part.replace(snapshot)


def _train(config: TrainConfig, path: Path, snapshot: Path, home: Path) -> None:
    """A task: start or resume one run; cancelled, it ends after its step, with a checkpoint."""
    _begin(home)
    control, last = RunControl(), time.monotonic() + PATIENCE
    signal.signal(signal.SIGINT, lambda number, frame: control.stop())
    while True:
        try:
            run_job(config, path, cache=ReferenceCache(snapshot, read_only=True), control=control)
            return
        except StoppedBeforeTraining:
            return
        except FolderTaken:
            if control.stopped or time.monotonic() > last:
                raise
            time.sleep(1)


def _begin(home: Path) -> None:
    """Use one core, and read relative paths as in the process that started the sweep."""
    torch.set_num_threads(1)
    if home.is_dir():
        os.chdir(home)


def _reason(error: Exception) -> str:
    """What a task's error says, without Ray's own account of it."""
    cause = getattr(error, "cause", None) or error
    return (str(cause) or type(cause).__name__).splitlines()[0]
