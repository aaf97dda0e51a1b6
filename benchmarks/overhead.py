"""What the loop adds to its own arithmetic, and what the live figure adds to the loop, on micro.

    python benchmarks/overhead.py

The bare calls are the same forward, loss, backward, clipping and optimiser calls on batches that
were laid out before. The run with the live figure is that of the workbench, in a Jupyter kernel
that sends every message; it is compared with the same run in the same kernel without it. All are
timed in turn, several times; the best of each counts.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import nbformat
import torch
import tyro
from nbclient import NotebookClient

from dpo_lab import TrainConfig, prepare, train
from dpo_lab.kernels.threads import threads_for
from dpo_lab.objective.pair_logps import PairLogps
from dpo_lab.objective.registry import LOSSES
from dpo_lab.training.learner import Learner


@dataclass(frozen=True)
class Overhead:
    """Time a run of micro against the bare calls in it."""

    steps: int = 200
    """Optimiser steps of a run."""
    batch_pairs: int = 16
    """Pairs in a step."""
    repeats: int = 5
    """How often each is timed."""


def timed_run(job) -> float:
    """Seconds of a whole run, without evaluations."""
    started = time.perf_counter()
    for _ in train(job):
        pass
    return time.perf_counter() - started


def timed_calls(job) -> float:
    """Seconds of the bare calls of the same run."""
    learner, scorer, loss = Learner(job), job.scorer, LOSSES[job.config.loss]
    batches = []
    for step in range(learner.total_steps):
        indices = learner.order.batch(step)
        pairs = [job.train.tokens[index] for index in indices]
        batch = scorer.batch(
            [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]
        )
        batches.append((batch, *job.train.reference[:, indices]))
    parameters = learner.parameters
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, fused=True)
    with threads_for(job.policy.model):  # as many as the run has
        started = time.perf_counter()
        for batch, *reference in batches:
            policy = scorer.logps(batch).split(job.config.batch_pairs)
            loss(PairLogps(*policy, *reference), job.config.beta).mean().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - started


def best_in_turn(repeats: int, clocks: dict[str, Callable[[int], float]]) -> dict[str, float]:
    """The least seconds of each clock; every one is called once a repeat, with its number."""
    best = dict.fromkeys(clocks, float("inf"))
    for repeat in range(repeats):
        for name, clock in clocks.items():
            best[name] = min(best[name], clock(repeat))
    return best


def live_and_not(steps: int, batch_pairs: int, repeats: int) -> dict[str, float]:
    """Seconds of a run in a thread, alone and under the workbench; to be called in a kernel."""
    from dpo_lab.training.background import BackgroundRun
    from dpo_lab.ui.workbench.workbench import Workbench

    bench = Workbench(folder=None, steps=steps, batch_pairs=batch_pairs)

    def alone(seed: int) -> float:
        return timed(lambda: BackgroundRun(replace(bench.state.config, seed=seed)).start().wait())

    def live(seed: int) -> float:
        return timed(lambda: bench.train(seed=seed).wait())

    def timed(work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return best_in_turn(repeats, {"alone": alone, "live": live})


def in_a_kernel(call: str) -> dict[str, float]:
    """What a function of this file returns in a kernel of its own."""
    source = f"import json\nfrom overhead import *\nprint('result', json.dumps({call}))"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    folder = {"metadata": {"path": __file__.rpartition("/")[0] or "."}}
    with contextlib.redirect_stderr(None):
        NotebookClient(notebook, timeout=3600, resources=folder).execute()
    printed = "".join(output.get("text", "") for output in notebook.cells[0].outputs)
    return json.loads(printed.rpartition("result")[2])


def main() -> None:
    """Time all in turn and print the ratios."""
    overhead = tyro.cli(Overhead, description=__doc__)
    steps, repeats = overhead.steps, overhead.repeats
    config = TrainConfig(steps=steps, batch_pairs=overhead.batch_pairs, eval_every=0, eval_pairs=0)
    clocks = {"run": timed_run, "calls": timed_calls}
    best = best_in_turn(
        repeats,
        {
            name: lambda seed, clock=clock: clock(prepare(replace(config, seed=seed)))
            for name, clock in clocks.items()
        },
    )
    for name, seconds in best.items():
        print(f"{name:<7}{1e3 * seconds / steps:.2f} ms a step")
    print(f"a run against its bare calls: {best['run'] / best['calls']:.2f}")
    best = in_a_kernel(f"live_and_not({5 * steps}, {overhead.batch_pairs}, {repeats})")
    for name, seconds in best.items():
        print(f"{name:<7}{seconds:.2f} s for {5 * steps} steps, with evaluations")
    print(f"a run with the live figure against one without: {best['live'] / best['alone']:.2f}")


if __name__ == "__main__":
    main()
