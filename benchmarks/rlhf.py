"""Every method against the exact frontier of `micro`: J, reward, KL, labels, samples, seconds.

Usage: python benchmarks/rlhf.py [--beta 0.3 1 3] [--json FILE] [--short]

J, reward and KL are sums over all answers of at most three words to the five held-out prompts.
`of the frontier` is the reward gained over the reference, in per cent of the most that any policy
gains at the same KL; `of J` is the gain in J in per cent of that of pi*.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch

from dpo_lab.analysis.frontier_curve import FrontierCurve
from dpo_lab.data import reviews
from dpo_lab.models.loading import load_model
from dpo_lab.models.response_space import ResponseSpace
from dpo_lab.objective.best_of_n import best_of_n_logps
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.loop import train
from dpo_lab.training.reward import reward_model_for
from dpo_lab.training.setup import prepare

RLOO = {"method": "rloo", "batch_pairs": 64, "steps": 2000, "samples": 8}
ELSEWHERE = {"method": "rloo", "batch_pairs": 32, "steps": 1000, "samples": 8}
"""Of those that do not end at pi*, however long they train."""
METHODS = {
    "SFT on chosen": {"method": "sft"},
    "DPO, 4,000 labels": {},
    "RLOO, reward model of the same labels": RLOO | {"steps": 500},
    "online DPO": {"method": "online-dpo", "batch_pairs": 128, "steps": 3000},
    "RLOO": RLOO,
    "RLOO, k2 as loss": RLOO | {"kl_estimator": "k2", "kl_place": "loss"},
    "RLOO, k3 as loss": ELSEWHERE | {"kl_estimator": "k3", "kl_place": "loss"},
    "RLOO, each token's own k1": ELSEWHERE | {"kl_unit": "token"},
    "GRPO": ELSEWHERE | {"method": "grpo"},
}


def row(name: str, curve: FrontierCurve, beta: float, kl: float, reward: float, **cost) -> dict:
    """A line of the table."""
    start, star = curve.curve[0, 1], curve.star(beta)
    gained = (reward - start) / (curve.reward_at(kl) - start) if kl > 1e-4 else math.nan
    best = star.reward - beta * star.kl
    objective = reward - beta * kl
    return {
        "beta": beta, "method": name, "J": objective, "of J": (objective - start) / (best - start),
        "reward": reward, "KL": kl, "of the frontier": gained, **cost,
    }  # fmt: skip


def trained(name: str, settings: dict, beta: float, world: ResponseSpace, short: bool) -> dict:
    """Train by a method, and see where it ends."""
    settings = dict(settings)
    if short and "steps" in settings:
        settings["steps"] //= 50
    started, rates = time.perf_counter(), None
    config = TrainConfig(beta=beta, eval_every=0, device="cpu", **settings)
    if "reward model" in name:
        rates, _ = reward_model_for(config, epochs=0.1 if short else 10)
    job = prepare(config, training_reward=rates, keep_reference=True)
    records = list(train(job))
    seconds = time.perf_counter() - started
    labels = sum(record.get("on_policy/labels") or 0 for record in records)
    of_pairs = not config.on_policy or rates is not None
    samples = sum(record.get("on_policy/samples") or 0 for record in records)
    point = world.point(job.policy)
    cost = {"labels": len(job.train) if of_pairs else labels, "samples": samples}
    curve = FrontierCurve.of(world.frontier)
    return row(name, curve, beta, point.kl, point.reward, **cost, seconds=seconds)


def best_of_n(beta: float, world: ResponseSpace) -> dict:
    """Best-of-n with the n whose KL is that of pi*: no training, n samples an answer."""
    curve = FrontierCurve.of(world.frontier)
    target, low, high = curve.star(beta).kl, 1.0, 1e6
    for _ in range(60):
        n = math.sqrt(low * high)
        point = world.frontier.point(best_of_n_logps(world.reference_logps, world.rewards, n))
        low, high = (n, high) if point.kl < target else (low, n)
    return row(
        f"best of {n:.3g}", curve, beta, point.kl, point.reward, labels=0, samples=0, seconds=0
    )


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beta", type=float, nargs="+", default=[0.3, 1.0, 3.0])
    parser.add_argument("--method", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--short", action="store_true", help="a fiftieth of the steps")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    micro = load_model("micro", device="cpu")
    world = ResponseSpace.of(micro, reviews.HELD_OUT_PROMPTS, reviews.reward)
    rows = []
    for beta in asked.beta:
        rows.append(best_of_n(beta, world))
        print(table_line(rows[-1]), flush=True)
        for name in asked.method:
            rows.append(trained(name, METHODS[name], beta, world, asked.short))
            print(table_line(rows[-1]), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1))


def table_line(row: dict) -> str:
    """A row as a line of a Markdown table, as in docs/rlhf.md."""
    cost = f"{row['labels']:,} | {row['samples']:,} | {row['seconds']:.0f}"
    if row["method"].startswith("best of"):
        cost = "0 | n an answer | 0"
    return (
        f"| {row['beta']:g} | {row['method']} | {row['J']:.3f} | {row['of J']:.1%} | "
        f"{row['reward']:.2f} | {row['KL']:.2f} | {row['of the frontier']:.1%} | {cost} |"
    )


if __name__ == "__main__":
    main()
