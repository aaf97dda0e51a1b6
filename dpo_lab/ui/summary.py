"""A run in a few numbers: a row of the table of runs, and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpo_lab.objective.pairs import PairLogps
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.history import History
from dpo_lab.training.records import StepRecord
from dpo_lab.training.runs import Run
from dpo_lab.ui.report import write_report


def start_loss(config: TrainConfig, beta: float | None = None) -> float | None:
    """The loss where the policy equals the reference, ln 2 for DPO; at another beta if given.

    None where it is not one number: without a reference, or with pairs that are weighed.
    """
    loss = config.loss_function
    if not loss.known_start or config.use_weighting:
        return None
    return loss(PairLogps.at_reference(), beta or config.beta, **config.loss_options).item()


def run_row(run: Run) -> dict[str, Any]:
    """A run's folder in one row."""
    return row_of(run.path.name, run.summary["state"], run.config, run.records())


def row_of(
    name: str, state: str, config: TrainConfig, records: Sequence[StepRecord]
) -> dict[str, Any]:
    """A run in one row: what it was, how far it is, its last measured numbers."""
    records = History.of(records)
    return {
        "run": name,
        "state": state,
        "model": config.model,
        "data": config.data,
        "loss": config.loss_words,
        "beta": config.beta,
        "step": records[-1].step if records else 0,
        "margin": _shown(records.last("rewards/margins")),
        "KL": _shown(records.last("kl/policy")),
        "score": _shown(records.last("score/policy")),
    }


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
        summary=tiles(records, run.summary.get("outcome")),
        environment=run.environment,
        start_loss=start_loss(config),
    )


def tiles(records: Sequence[StepRecord], outcome: Mapping | None) -> dict[str, dict[str, Any]]:
    """Numbers before and after, under the names a reader knows.

    Args:
        records: Of one run.
        outcome: Scores before and after, as in `summary.json`.
    """
    records, tiles = History.of(records), {}
    for label, key, text in (
        ("Held-out accuracy", "eval/rewards/accuracies", "pairs ranked as people did"),
        ("Held-out reward margin", "eval/rewards/margins", "beta x (chosen - rejected log-ratio)"),
        ("KL(policy || reference)", "kl/policy", "nats, on the policy's own samples"),
    ):
        values = records.columns(key)[:, 1].tolist()
        if values:
            tiles[label] = {"before": values[0], "after": values[-1], "text": text}
    error = records.last("kl/policy_stderr")
    if error is not None:
        tiles["KL(policy || reference)"]["text"] = (
            f"nats, +- {error:.3f} (1 s.e.), on {records.last('kl/policy_n'):.0f} samples"
        )
    if outcome:
        after = outcome["after"]
        tiles["Score"] = {
            "before": outcome["before"]["mean"],
            "after": after["mean"],
            "text": f"95 % interval {after['low']:.3f} to {after['high']:.3f}; {outcome['what']}",
        }
    return tiles


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
