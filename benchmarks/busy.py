"""What a step costs where another process takes a core: the lab's threads beside spinning ones.

    python benchmarks/busy.py [--json result.json]

Every measurement is a process of its own that trains some steps, on a machine left alone and with
processes beside it that do nothing but count; both in turn, several times. Compare the ratios.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

CONTENDERS = {"threads that spin": {"OMP_WAIT_POLICY": "ACTIVE"}, "lab": {}}
BUSY = {"idle": 0, "busy": 1}
"""Processes beside it."""


@dataclass(frozen=True)
class Busy:
    """Time a step with and without another process beside it."""

    model: str = "smollm2"
    """micro, smollm2, a folder or a hub id."""
    data: str = "places"
    """Preference pairs, as for dpo-lab train."""
    steps: int = 6
    """Optimiser steps of a measurement; the first two are not counted."""
    repeats: int = 3
    """How often each is measured."""
    json: Path | None = None
    """Where to write the results."""


def train_steps(model: str, data: str, steps: int) -> None:
    """Train as `dpo-lab train` does, and print the seconds of every step and its threads."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does
    import torch

    from dpo_lab import TrainConfig, prepare, train

    config = TrainConfig(
        model=model, data=data, steps=steps, eval_every=0, eval_pairs=0, checkpoint_every=0
    )
    for record in train(prepare(config)):
        print(json.dumps([record.timing["seconds"], torch.get_num_threads()]), flush=True)


def measured(benchmark: Busy, environment: dict[str, str], beside: int) -> tuple[float, int]:
    """Median seconds of a step, and the threads at the end."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
    spin = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(spin) for _ in range(beside)]
    try:
        words = [sys.executable, __file__, "--step", benchmark.model, benchmark.data]
        done = subprocess.run(
            [*words, str(benchmark.steps)],
            env=kept | environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    finally:
        for other in others:
            other.kill()
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return statistics.median(seconds for seconds, _ in lines[2:]), lines[-1][1]


def main(benchmark: Busy) -> None:
    """Measure all in turn, print a table, write the results."""
    found: dict[str, dict[str, list[float]]] = {
        name: {state: [] for state in BUSY} for name in CONTENDERS
    }
    for _ in range(benchmark.repeats):
        for name, environment in CONTENDERS.items():
            for state, beside in BUSY.items():
                seconds, threads = measured(benchmark, environment, beside)
                found[name][state].append(seconds)
                print(f"{name}, {state}: {seconds:.2f} s, {threads} threads", flush=True)
    best = {name: {s: min(some) for s, some in states.items()} for name, states in found.items()}
    print("\n| | idle, s a step | busy, s a step | busy / idle |\n|---|---|---|---|")
    for name, states in best.items():
        ratio = states["busy"] / states["idle"]
        print(f"| {name} | {states['idle']:.2f} | {states['busy']:.2f} | {ratio:.2f} |")
    if benchmark.json:
        benchmark.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        train_steps(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main(tyro.cli(Busy))
