"""A run in a few numbers: a row of the table of runs, and its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dpo_lab.objective.losses import LOSSES, PairLogps
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.records import SampleRecord, StepRecord
from dpo_lab.training.runs import Run
from dpo_lab.ui.report import write_report


def start_loss(config: TrainConfig) -> float:
    """The loss where the policy equals the reference: ln 2 for DPO."""
    zero = torch.zeros(1)
    pairs = PairLogps(zero, zero, zero, zero)
    return LOSSES[config.loss](pairs, config.beta, **config.loss_options).item()


def run_row(run: Run) -> dict[str, Any]:
    """A run in one row: what it was, how far it is, its last measured numbers."""
    config, records, summary = run.config, run.records(), run.summary
    last = {key: _last(records, key) for key in ("rewards/margins", "kl/policy", "score/policy")}
    return {
        "run": run.path.name,
        "state": summary["state"],
        "model": config.model,
        "data": config.data,
        "loss": config.loss,
        "beta": config.beta,
        "step": records[-1].step if records else 0,
        "margin": _shown(last["rewards/margins"]),
        "KL": _shown(last["kl/policy"]),
        "score": _shown(last["score/policy"]),
    }


def last_samples(run: Run) -> list[SampleRecord]:
    """The answers of the last evaluation."""
    samples = run.samples()
    return [sample for sample in samples if sample.step == samples[-1].step]


def report_of(run: Run) -> Path:
    """Write a run's report beside its records.

    Returns:
        The path of `report.html`.
    """
    config, records = run.config, run.records()
    return write_report(
        run.path / "report.html",
        title=run.path.name,
        config=config.as_dict(),
        records=records,
        samples=run.samples(),
        summary=_tiles(run, records),
        environment=run.environment,
        start_loss=start_loss(config),
    )


def _tiles(run: Run, records: list[StepRecord]) -> dict[str, dict[str, Any]]:
    """Numbers before and after, under the names a reader knows."""
    tiles = {}
    for label, key, text in (
        ("Held-out accuracy", "eval/rewards/accuracies", "pairs ranked as people did"),
        ("Held-out reward margin", "eval/rewards/margins", "beta x (chosen - rejected log-ratio)"),
        ("KL(policy || reference)", "kl/policy", "nats, on the policy's own samples"),
    ):
        values = [record.get(key) for record in records if record.get(key) is not None]
        if values:
            tiles[label] = {"before": values[0], "after": values[-1], "text": text}
    error = _last(records, "kl/policy_stderr")
    if error is not None:
        tiles["KL(policy || reference)"]["text"] = (
            f"nats, +- {error:.3f} (1 s.e.), on {_last(records, 'kl/policy_n'):.0f} samples"
        )
    outcome = run.summary.get("outcome")
    if outcome:
        after = outcome["after"]
        tiles["Score"] = {
            "before": outcome["before"]["mean"],
            "after": after["mean"],
            "text": f"95 % interval {after['low']:.3f} to {after['high']:.3f}; {outcome['what']}",
        }
    return tiles


def _last(records: list[StepRecord], key: str) -> float | None:
    return next((r.get(key) for r in reversed(records) if r.get(key) is not None), None)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
