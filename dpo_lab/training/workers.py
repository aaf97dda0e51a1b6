"""A pool of worker processes that run calls, and that end when their parent process ends."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from multiprocessing.connection import Connection, wait
from typing import Any

GRACE = 3.0
"""Seconds that a stopped call has to end by itself; anything not written to disk by then is
lost."""
TICK = 1.0
"""Seconds between two calls of `tick`."""
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class _Process:
    """A process that calls a function with each set of arguments that it is sent."""

    def __init__(self, place: str, begin: tuple[str, Any]):
        context = multiprocessing.get_context("spawn")
        self.pipe, child_pipe = context.Pipe()
        self.process = context.Process(target=_serve, args=(child_pipe, place, begin), daemon=True)
        with _passive():
            self.process.start()
        child_pipe.close()

    def close(self) -> None:
        """Close the pipe, after which an idle process ends by itself."""
        self.pipe.close()
        self.process.join(GRACE)

    def stop(self) -> None:
        """Ask the process to end."""
        self.process.terminate()

    def end(self) -> None:
        """Wait for the process to end, and kill it if it does not."""
        self.process.join(GRACE + 1)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


def run_all(
    place: str,
    calls: Mapping[str, tuple],
    workers: int,
    begin: tuple[str, Any],
    done: Callable[[str], None],
    tick: Callable[[list[str]], None] | None = None,
) -> dict[str, str]:
    """Run every call in a pool of processes; a failed call does not affect the others.

    A signal or an error that ends this function early ends the processes too: each has `GRACE`
    seconds to finish its call cleanly. If this process is killed, they notice and end by
    themselves.

    Args:
        place: The function as `module:name`; its last argument is a `threading.Event` that is set
            when it must end.
        calls: Its other arguments by the name of the call.
        workers: Number of processes.
        begin: A function as `module:name` that each process calls first, and its argument.
        done: Called with the name of each call that has succeeded.
        tick: Called about once a second with the names of the calls in progress.

    Returns:
        Error messages of failed calls, by the name of the call.
    """
    queue, failed = deque(calls.items()), {}
    busy: dict[Connection, tuple[_Process, str]] = {}
    idle = [_Process(place, begin) for _ in range(min(workers, len(calls)))]
    everyone = list(idle)
    try:
        while queue or busy:
            while queue and idle:
                name, arguments = queue.popleft()
                worker = idle.pop()
                worker.pipe.send(arguments)
                busy[worker.pipe] = worker, name
            ready = wait(list(busy), TICK if tick else None)
            if tick:
                tick([name for _, name in busy.values()])
            for pipe in ready:
                worker, name = busy.pop(pipe)
                try:
                    error = pipe.recv()
                    idle.append(worker)
                except (EOFError, ConnectionResetError):
                    worker.process.join()
                    error = f"its process ended with {worker.process.exitcode}"
                    if queue:
                        everyone.append(_Process(place, begin))
                        idle.append(everyone[-1])
                if error is None:
                    done(name)
                else:
                    failed[name] = error
        for worker in everyone:
            worker.close()
    finally:
        for worker in everyone:
            worker.stop()
        for worker in everyone:
            worker.end()
    return failed


@contextlib.contextmanager
def _passive() -> Iterator[None]:
    """Processes started inside this context have threads that sleep while they wait."""
    before = os.environ.get("OMP_WAIT_POLICY")
    os.environ["OMP_WAIT_POLICY"] = before or "PASSIVE"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_WAIT_POLICY"]


class _Ending:
    """Ends this process on a signal, or when the parent process has died."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.busy = False
        self.code = 0
        for number in SIGNALS:
            signal.signal(number, lambda number, frame: self.ask(128 + number))
        watch = threading.Thread(target=self._watch, name="dpo-lab parent", daemon=True)
        watch.start()

    def ask(self, code: int) -> None:
        """End at once if idle, else within `GRACE` seconds."""
        if not self.busy:
            os._exit(code)
        if not self.asked.is_set():
            self.code = code
            self.asked.set()
            threading.Thread(target=self._at_last, name="dpo-lab end", daemon=True).start()

    def _at_last(self) -> None:
        time.sleep(GRACE)
        os._exit(self.code)

    def _watch(self) -> None:
        multiprocessing.parent_process().join()
        self.ask(1)


def _serve(pipe: Connection, place: str, begin: tuple[str, Any]) -> None:
    """Main function of a worker process; nothing large is imported before signals are handled."""
    ending = _Ending()
    _find(begin[0])(begin[1])
    call = _find(place)
    while not ending.asked.is_set():
        try:
            arguments = pipe.recv()
        except EOFError:
            return
        ending.busy = True
        try:
            call(*arguments, ending.asked)
            error = None
        except Exception as caught:  # sent to the parent process
            error = str(caught) or type(caught).__name__
        if not ending.asked.is_set():
            ending.busy = False
            pipe.send(error)
    # Exit at once: the run's files are written, and a normal Python exit would stop the thread that
    # limits the time to end.
    os._exit(ending.code)


def _find(place: str) -> Callable:
    module, name = place.split(":")
    return getattr(import_module(module), name)
