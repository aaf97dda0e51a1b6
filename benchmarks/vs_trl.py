"""The lab beside TRL's DPOTrainer: the same pairs, order, optimiser and precision, one machine.

    python benchmarks/vs_trl.py --data pairs.jsonl.gz [--json result.json]

Every contender runs in a process of its own, one after the other, on the same token ids; between
them the machine's best matrix product is measured. Times are wall clock of whole training, from
before the first step to after the last; compare the ratios, not the seconds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tyro

CONTENDERS = {
    "TRL, default": {"gradient_checkpointing": True},
    "TRL, fast": {"precompute_ref_log_probs": True},
    "TRL, fast, 1 pair at a time": {"precompute_ref_log_probs": True, "pairs_at_a_time": 1},
    "lab": {},
    "lab, LoRA rank 8": {"lora_rank": 8},
}


@dataclass(frozen=True)
class Benchmark:
    """Time the lab and TRL on the same pairs."""

    data: str
    """Preference pairs, as for dpo-lab train."""
    model: str = "smollm2"
    """micro, smollm2, a folder or a hub id."""
    pairs: int = 32
    """How many pairs are trained on, once."""
    batch_pairs: int = 8
    """Pairs in an optimiser step."""
    max_length: int = 512
    """Most tokens of prompt and response together."""
    only: tuple[str, ...] = ()
    """Names of the contenders to run; all by default."""
    json: Path | None = None
    """Where to write the results."""


def config_of(benchmark: Benchmark, **changes):
    """The lab's configuration."""
    from dpo_lab import TrainConfig

    return TrainConfig(
        model=benchmark.model,
        data=benchmark.data,
        limit=benchmark.pairs,
        steps=benchmark.pairs // benchmark.batch_pairs,
        batch_pairs=benchmark.batch_pairs,
        max_length=benchmark.max_length,
        held_out=0.0,
        learning_rate=1e-6,
        schedule="constant",
        warmup_steps=0,
        eval_every=0,
        eval_pairs=0,
        precision="float32",
        **changes,
    )


def job_of(benchmark: Benchmark, scratch: Path, **changes):
    """The lab's job: it also fixes the tokens and the order for TRL."""
    from dpo_lab import prepare
    from dpo_lab.models.reference_cache import ReferenceCache

    cache = ReferenceCache(scratch / "reference.sqlite")
    return prepare(config_of(benchmark, **changes), cache=cache)


def run_lab(benchmark: Benchmark, scratch: Path, **settings) -> dict:
    """Train with the lab."""
    from dpo_lab import train

    job = job_of(benchmark, scratch, **settings)
    started, processor = time.perf_counter(), time.process_time()
    records = list(train(job))
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    steps = [
        {
            "loss": record["loss"],
            "chosen": record["logps/chosen"],
            "rejected": record["logps/rejected"],
            "seconds": record.timing["seconds"],
        }
        for record in records
    ]
    spent = {"seconds": seconds, "processor_seconds": processor}
    return {**spent, "steps": steps, **useful_work(job)}


def useful_work(job) -> dict:
    """Tokens, and the arithmetic that no method can do without, in floating-point operations.

    Full fine-tuning: 6 x weights of the trunk x different tokens + 6 x weights of the head x
    different response tokens (2 forward, 4 backward); 4 instead of 6 where weights are frozen.
    """
    from dpo_lab.data.packing import pack
    from dpo_lab.training.estimate import multiplied_weights
    from dpo_lab.training.learner import Learner

    learner, computed, scored, real = Learner(job), 0, 0, 0
    for step in range(learner.total_steps):
        pairs = [job.train.tokens[index] for index in learner.order.batch(step)]
        sequences = [(p.prompt, side) for p in pairs for side in (p.chosen, p.rejected)]
        batch = pack(sequences)
        computed += batch.input_ids.numel()
        scored += len(batch.targets)
        real += batch.real_tokens
    trunk, head = multiplied_weights(job.policy.base)
    factor = 4 if job.policy.lora else 6
    work = factor * (trunk * computed + head * scored)
    return {"tokens_computed": computed, "tokens_scored": scored, "tokens_real": real, "work": work}


def run_one(benchmark: Benchmark, contender: str, scratch: Path) -> dict:
    """One contender, in this process."""
    import torch

    from dpo_lab.training.estimate import best_product

    before = best_product(torch.device("cpu"))
    settings = CONTENDERS[contender]
    if contender.startswith("TRL"):
        from trl_side import run_trl

        result = run_trl(lambda: job_of(benchmark, scratch), scratch, **settings)
    else:
        result = run_lab(benchmark, scratch, **settings)
    result["product"] = max(before, best_product(torch.device("cpu")))
    if contender.startswith("lab"):
        from dpo_lab.training.estimate import estimate

        result["estimated_gb"] = estimate(config_of(benchmark, **settings)).total_gb
    result["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return result


def main() -> None:
    """Run every contender in its own process, and print the table."""
    benchmark = tyro.cli(Benchmark, description=__doc__)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in benchmark.only or CONTENDERS:
            print(f"{name} ...", file=sys.stderr, flush=True)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                results[name] = process.submit(run_one, benchmark, name, Path(scratch)).result()
    report(benchmark, results)
    if benchmark.json:
        benchmark.json.write_text(json.dumps(results, indent=2))


def report(benchmark: Benchmark, results: dict[str, dict]) -> None:
    """The table, as it stands in the README."""
    titles = "pairs/s", "peak memory, GB", "estimated, GB", "time, lab = 1", "share of best product"
    print("|", *(f"| {title}" for title in titles), "|")
    print("|---" * (1 + len(titles)) + "|")
    ours = results.get("lab")
    for name, result in results.items():
        speed = benchmark.pairs / result["seconds"]
        ratio = f"{result['seconds'] / ours['seconds']:.2f}" if ours else ""
        share = estimated = ""
        if "work" in result:
            share = f"{result['work'] / result['seconds'] / result['product']:.0%}"
            estimated = f"{result['estimated_gb']:.1f}"
        print(
            f"| {name} | {speed:.2f} | {result['peak_gb']:.1f} | {estimated} | {ratio} | {share} |"
        )
    print()
    for name, result in results.items():
        steps = " ".join(f"{step['seconds']:.1f}" for step in result["steps"])
        losses = " ".join(f"{step['loss']:.5f}" for step in result["steps"])
        print(f"{name}: seconds a step {steps}; losses {losses}")
    for name, result in results.items():
        if ours and name.startswith("TRL"):
            steps = list(zip(ours["steps"], result["steps"], strict=True))
            loss = max(abs(mine["loss"] - theirs["loss"]) for mine, theirs in steps)
            logp = max(
                abs(mine[side] / theirs[side] - 1)
                for mine, theirs in steps
                for side in ("chosen", "rejected")
            )
            print(
                f"{name}: differs from the lab by at most {loss:.1e} in a step's loss and by "
                f"{logp:.1e} of a step's mean log-probability"
            )


if __name__ == "__main__":
    main()
