"""The runs of a sweep as points: their means over seeds, and which are not beaten."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from dpo_lab.objective.kl import Estimate
from dpo_lab.training.config import TrainConfig

_SETTINGS = {setting.name for setting in fields(TrainConfig)}


@dataclass(frozen=True)
class SweepPoint:
    """Runs of a sweep that differ only in their seed.

    Attributes:
        rows: Their rows of the sweep's table.
        kl: Mean KL, nats.
        score: Mean score.
        kl_stderr: Standard error of the KL: over seeds or, of one run, over its samples.
        score_stderr: The same of the score; each is NaN if it was not measured.
        best: Whether no other point has a higher score at the same or a smaller KL.
    """

    rows: Sequence[Mapping[str, Any]]
    kl: float
    score: float
    kl_stderr: float = math.nan
    score_stderr: float = math.nan
    best: bool = field(default=False, compare=False)

    @property
    def name(self) -> str:
        """The settings that vary; the name of the run if it is one."""
        parts = self.rows[0]["run"].split(",")
        several = len(self.rows) > 1
        return ",".join(part for part in parts if not (several and part.startswith("seed=")))


def sweep_points(rows: Sequence[Mapping[str, Any]], kl: str, score: str) -> list[SweepPoint]:
    """The points of a sweep, in the order of their first rows.

    Args:
        rows: Of the sweep's table, each with both values.
        kl: Name of the column of KL.
        score: Name of the column of the score.
    """
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for number, row in enumerate(rows):
        settings = tuple((k, str(row[k])) for k in row if k in _SETTINGS and k != "seed")
        groups.setdefault(settings if "seed" in row else (number,), []).append(row)
    points = []
    for group in groups.values():
        means, errors = [], []
        for name in (kl, score):
            estimate = Estimate.of(torch.tensor([row[name] for row in group], dtype=torch.float64))
            means.append(estimate.mean)
            own = group[0].get(f"{name}_stderr")
            errors.append(estimate.stderr if len(group) > 1 else math.nan if own is None else own)
        points.append(SweepPoint(group, *means, *errors))
    return [_judged(point, points) for point in points]


def _judged(point: SweepPoint, points: Sequence[SweepPoint]) -> SweepPoint:
    beaten = any(
        other.kl <= point.kl
        and other.score >= point.score
        and (other.kl, other.score) != (point.kl, point.score)
        for other in points
    )
    return replace(point, best=not beaten)
