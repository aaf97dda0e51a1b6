"""Several processes for one run: started by torch's own launcher, and ended together."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from dpo_lab.cli.output import say
from dpo_lab.training.runs import Run

GRACE = 15.0
"""Seconds for a checkpoint before a process whose launcher has died ends itself."""


def launch(count: int, arguments: Sequence[str], out: Path) -> None:
    """Run `dpo-lab` with these arguments in several processes on this machine, and wait.

    Args:
        count: Number of processes.
        arguments: Of the command line that each of them gets.
        out: The run's folder, which is told why the run ended.

    Raises:
        SystemExit: Unless all of them succeed: 128 plus the number of a signal, or the exit code of
            the process that failed first.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    os.environ["DPO_LAB_LAUNCHED"] = "1"
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="dpo-lab-") as logs:
        quiet = {rank: Std.ALL for rank in range(1, count)}
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs, redirects=quiet),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "dpo_lab", *arguments)
        except SignalException as stop:
            raise SystemExit(128 + stop.sigval) from None
        except ChildFailedError as error:
            rank, code, reason = _cause(error.failures, Path(logs))
            if reason:
                reason = f"rank {rank} of {count} processes {reason}"
                say(f"error: {reason}. Go on from the last checkpoint with --resume --out {out}")
                _note(out, reason)
            raise SystemExit(code if code > 0 else 128 - code) from None


def _cause(failures: dict, logs: Path) -> tuple[int, int, str]:
    """Rank, exit code and last words of the process that failed first by itself.

    The others have lost it, for which there is an exit code, or were ended by the launcher.
    """
    from dpo_lab.models.processes import LostProcess

    def order(rank: int) -> tuple:
        code = failures[rank].exitcode
        followed = code in (LostProcess.exit_code, -signal.SIGTERM, -signal.SIGABRT)
        return followed, code >= 0, failures[rank].timestamp

    rank = min(failures, key=order)
    failure = failures[rank]
    if failure.exitcode < 0:
        killed = failure.signal_name()
        hint = ", as by kill -9 or for want of memory" if killed == "SIGKILL" else ""
        return rank, failure.exitcode, f"was ended by {killed}{hint}"
    if rank == 0 and failure.exitcode != LostProcess.exit_code:  # it has said so itself
        return rank, failure.exitcode, ""
    words = [
        line.strip()
        for path in sorted(logs.glob(f"**/{rank}/stderr.log"))
        for line in path.read_text(errors="replace").splitlines()
        if line.strip()
    ]
    last = words[-1].removeprefix("dpo-lab: ").removeprefix("error: ") if words else ""
    return rank, failure.exitcode, f"failed: {last}" if last else "failed without a word"


def _note(out: Path, reason: str) -> None:
    """Write into the run's summary why it ended, if it has begun."""
    run = Run(out)
    if run.exists:
        run.finish({"state": "failed", "error": reason})


def end_with_the_launcher(stop: Callable[[], None]) -> None:
    """End this process soon after the launcher that started it has died.

    Args:
        stop: Called then; it ends the run in order.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        stop()
        time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=watch, name="dpo-lab launcher", daemon=True).start()
