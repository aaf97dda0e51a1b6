"""A step's record in the words of transformers' logs, which trackers and dashboards read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dpo_lab.training.records import StepRecord

TIMINGS = ("pairs_per_second", "tokens_per_second", "peak_memory_gb")
LAST = ("grad_norm", "change/learning_rate")
"""Metrics of which a window's last value counts, not the mean."""
MEASURED = ("eval/", "kl/", "entropy/", "score/", "proxy/", "listed/", "samples/")
"""Beginnings of keys that an evaluation adds to a step's record."""


def step_logs(records: Sequence[StepRecord]) -> dict[str, float]:
    """Metrics of the steps since the last log: means, as transformers and TRL log them.

    Args:
        records: At least one.
    """
    last = records[-1]
    logs: dict[str, float] = {}
    for key in {name: None for record in records for name in record.values}:
        if key.startswith(MEASURED):
            continue
        values = [record.values[key] for record in records if key in record.values]
        logs[key] = values[-1] if key in LAST else sum(values) / len(values)
    logs |= {"learning_rate": last.learning_rate, "beta": last.beta}
    for key in TIMINGS:
        values = [record.timing[key] for record in records if key in record.timing]
        if values:
            logs[key] = sum(values) / len(values)
    return logs


def evaluation_logs(values: Mapping[str, float], prefix: str = "eval_") -> dict[str, float]:
    """What an evaluation measured: `eval/loss` as `eval_loss`, `kl/k1` as `eval_kl/k1`.

    Args:
        values: Metrics by their keys in the records.
        prefix: In front of every key, which loses its own `eval/`.
    """
    measured = {key: value for key, value in values.items() if key.startswith(MEASURED)}
    return {f"{prefix}{key.removeprefix('eval/')}": value for key, value in measured.items()}
