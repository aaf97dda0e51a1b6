"""What the loop adds to its own arithmetic: a run of micro against the bare calls in it.

    python benchmarks/overhead.py

The bare calls are the same forward, loss, backward, clipping and optimiser calls on batches that
were laid out before. Both are timed in turn, several times; the best of each counts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
import tyro

from dpo_lab.objective.losses import LOSSES, PairLogps
from dpo_lab.training import TrainConfig, prepare, train
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
        batches.append(
            (batch, job.train.reference_chosen[indices], job.train.reference_rejected[indices])
        )
    parameters = learner.parameters
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, fused=True)
    started = time.perf_counter()
    for batch, *reference in batches:
        policy = scorer.logps(batch).split(job.config.batch_pairs)
        loss(PairLogps(*policy, *reference), job.config.beta).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - started


def main() -> None:
    """Time both in turn and print the ratio."""
    overhead = tyro.cli(Overhead, description=__doc__)
    config = TrainConfig(
        steps=overhead.steps, batch_pairs=overhead.batch_pairs, eval_every=0, eval_pairs=0
    )
    best = {"run": float("inf"), "calls": float("inf")}
    for seed in range(overhead.repeats):
        for name, clock in (("run", timed_run), ("calls", timed_calls)):
            job = prepare(replace(config, seed=seed))
            best[name] = min(best[name], clock(job))
    for name, seconds in best.items():
        print(f"{name:<6}{1e3 * seconds / overhead.steps:.2f} ms a step")
    print(f"ratio {best['run'] / best['calls']:.2f}")


if __name__ == "__main__":
    main()
