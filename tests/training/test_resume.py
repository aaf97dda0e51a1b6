"""`kill -9` at random moments, and the very same records in the end."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

KILLS = 10

# One process imports everything once and forks a child for each attempt; the children alone do
# arithmetic, so no thread is lost in a fork. It kills a child that lives longer than its time.
DRIVER = textwrap.dedent(
    """
    import os, signal, sys, threading, time
    from dpo_lab.cli.commands import main

    def attempt(arguments, seconds):
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            sys.stdout = open(os.devnull, "w")
            main(arguments)
            os._exit(0)
        killer = threading.Timer(seconds, os.kill, (child, signal.SIGKILL)) if seconds else None
        if killer:
            killer.start()
        _, status = os.waitpid(child, 0)
        if killer:
            killer.cancel()
        return os.waitstatus_to_exitcode(status), time.monotonic() - started

    for line in sys.stdin:
        seconds, *arguments = line.split()
        print(*attempt(arguments, float(seconds)), flush=True)
    """
)


class Driver:
    def __init__(self, cache: Path):
        environment = os.environ | {"DPO_LAB_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def attempt(self, out: Path, seconds: float = 0) -> tuple[int, float]:
        """Exit code and duration of a training that is killed after `seconds` (0: never)."""
        command = (
            f"{seconds} train --out {out} --resume --steps 80 --batch-pairs 8 --limit 200 "
            "--eval-every 10 --eval-pairs 16 --kl-samples 16 --max-new-tokens 4 "
            "--checkpoint-every 3 --schedule linear\n"
        )
        self.process.stdin.write(command)
        self.process.stdin.flush()
        code, duration = self.process.stdout.readline().split()
        return int(code), float(duration)

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@pytest.mark.slow
def test_ten_kills_change_no_record(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    seed = time.time_ns()  # another set of moments each time
    print(f"seed={seed}")  # shown if it fails
    rng = random.Random(seed)
    drivers = Driver(tmp_path / "cache-a"), Driver(tmp_path / "cache-b")
    try:
        code, duration = drivers[0].attempt(whole)
        assert code == 0
        kills = 0
        while kills < KILLS:
            code, _ = drivers[1].attempt(killed, rng.uniform(0.05, duration / 3))
            if code == 0:  # it got to the end between two kills: begin again
                shutil.rmtree(killed)
                kills = 0
            else:
                assert code == -signal.SIGKILL
                kills += 1
        code, _ = drivers[1].attempt(killed)
        assert code == 0
    finally:
        for driver in drivers:
            driver.close()
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    steps = [json.loads(line)["step"] for line in (whole / "metrics.jsonl").open()]
    assert steps == list(range(81))
    weights = "checkpoint/model.safetensors"
    assert (killed / weights).read_bytes() == (whole / weights).read_bytes()
