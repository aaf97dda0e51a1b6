"""Ranked responses beside TRL's DPOTrainer: four to a prompt, whose six pairs share one tree.

    python benchmarks/ranked.py [--json result.json]

Prompts of about 300 tokens with four responses of about 100 each, all six pairs of a prompt in one
batch. The lab computes prompt and responses once; a trainer of single pairs computes twelve
sequences. Both get the same token ids in the same order; TRL its best setting of `vs_trl.py`, a
pair or six at a time, the reference precomputed. Compare ratios within one run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tyro

PROMPT, RESPONSE, RESPONSES = 300, 100, 4
TREE = 1024
"""Tokens in a micro-batch: room for a prompt with its responses."""
GROUPED = {"group_by_prompt": True, "micro_batch_tokens": TREE}
CONTENDERS = {
    "lab, by prompt": GROUPED,
    "TRL, fast": {"precompute_ref_log_probs": True},
    "TRL, fast, 1 pair at a time": {"precompute_ref_log_probs": True, "pairs_at_a_time": 1},
    "lab, pairs shuffled": {},
}


@dataclass(frozen=True)
class Ranked:
    """Time the lab and TRL on ranked responses."""

    model: str = "smollm2"
    """smollm2, a folder or a hub id."""
    prompts: int = 3
    """How many prompts are trained on, once; a step takes the six pairs of one."""
    only: tuple[str, ...] = ()
    """Names of the contenders to run; all by default."""
    json: Path | None = None
    """Where to write the results."""


def write_data(file: Path, model: str, prompts: int) -> None:
    """Rows of ranked responses, of words that are a token each."""
    from transformers import AutoTokenizer

    from dpo_lab.models.builtin import builtin_model

    tokenizer = AutoTokenizer.from_pretrained(builtin_model(model)[0])
    words = [tokenizer.decode(token) for token in range(1000, 4000)]
    words = [word.strip() for word in words if word.startswith(" ") and word.strip().isalpha()]
    draw = random.Random(0)
    with file.open("w") as out:
        for _ in range(prompts):
            texts = [" ".join(draw.choices(words, k=RESPONSE)) for _ in range(RESPONSES)]
            prompt = " ".join(draw.choices(words, k=PROMPT))
            row = {"prompt": prompt, "responses": texts, "scores": list(range(RESPONSES))}
            print(json.dumps(row), file=out)


def run_one(ranked: Ranked, contender: str, scratch: Path) -> dict:
    """One contender, in this process."""
    from vs_trl import Benchmark, job_of, run_lab

    pairs = ranked.prompts * RESPONSES * (RESPONSES - 1) // 2
    benchmark = Benchmark(
        data=str(scratch / "ranked.jsonl"), model=ranked.model, pairs=pairs, batch_pairs=6
    )
    settings = CONTENDERS[contender]
    if contender.startswith("TRL"):
        from trl_side import run_trl

        result = run_trl(lambda: job_of(benchmark, scratch, **GROUPED), scratch, **settings)
    else:
        result = run_lab(benchmark, scratch, **settings)
    result["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return result


def main() -> None:
    """Run every contender in its own process, and print the table."""
    ranked = tyro.cli(Ranked, description=__doc__)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        write_data(Path(scratch) / "ranked.jsonl", ranked.model, ranked.prompts)
        for name in ranked.only or CONTENDERS:
            print(f"{name} ...", file=sys.stderr, flush=True)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                results[name] = process.submit(run_one, ranked, name, Path(scratch)).result()
    report(ranked, results)
    if ranked.json:
        ranked.json.write_text(json.dumps(results, indent=2) + "\n")


def report(ranked: Ranked, results: dict[str, dict]) -> None:
    """The table, as it stands in docs/speed.md."""
    ours = results.get("lab, by prompt")
    titles = "pairs/s", "time, lab = 1", "processor time", "peak memory, GB", "memory, lab = 1"
    print("|", *(f"| {title}" for title in titles), "|")
    print("|---" * (1 + len(titles)) + "|")
    for name, result in results.items():
        speed = 6 * ranked.prompts / result["seconds"]
        times = processor = memory = ""
        if ours:
            processor = f"{result['processor_seconds'] / ours['processor_seconds']:.2f}"
            times = f"{result['seconds'] / ours['seconds']:.2f}"
            memory = f"{result['peak_gb'] / ours['peak_gb']:.2f}"
        peak = f"{result['peak_gb']:.1f}"
        print(f"| {name} | {speed:.2f} | {times} | {processor} | {peak} | {memory} |")
    print()
    for name, result in results.items():
        losses = " ".join(f"{step['loss']:.5f}" for step in result["steps"])
        seconds = " ".join(f"{step['seconds']:.1f}" for step in result["steps"])
        print(f"{name}: seconds a step {seconds}; losses {losses}")


if __name__ == "__main__":
    main()
