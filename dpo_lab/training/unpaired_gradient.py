"""The gradient of a loss of single responses, each good or bad: KTO and BCO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dpo_lab.objective.registry import find_loss
from dpo_lab.training.evaluation import logps_of
from dpo_lab.training.pair_gradient import PairGradient, PairOutcome
from dpo_lab.training.pairs import PairBatch, PairsWithReference
from dpo_lab.training.start_check import at_start
from dpo_lab.training.unpaired_baseline import kto_baseline
from dpo_lab.training.unpaired_metrics import unpaired_metrics

COUNT, MEAN = "responses", "mean log-ratio"
"""What BCO remembers: of how many responses, and the mean of their log-ratios."""


@dataclass(frozen=True, eq=False)
class UnpairedOutcome(PairOutcome):
    """As `PairOutcome`, of single responses."""

    def metrics(self, beta: float, *, first: bool) -> dict[str, float]:
        """As `Outcome.metrics`."""
        pairs = at_start(self.pairs, self.precision) if first else self.pairs
        values = unpaired_metrics(self.losses, pairs, self.gradient_weights, beta)
        return values if self.balance is None else values | {"router/aux_loss": self.balance}


class UnpairedGradient(PairGradient):
    """The gradient of the mean loss of single responses.

    What their log-ratios are compared with is found first, over the whole batch of the optimiser:
    so the size of micro-batches, and the number of processes, change nothing.
    """

    outcome = UnpairedOutcome

    def accumulate(self, indices: Sequence[int], step: int, beta: float) -> PairOutcome:
        """As `StepGradient.accumulate`; the batch is those single responses."""
        source = self.job.train
        self.job.baseline = self._baseline(source, indices) if step else 0.0
        return self.descend(source, indices, beta)

    def micro_batches(self, source: PairsWithReference, indices: Sequence[int]) -> list[PairBatch]:
        """As in `PairGradient`, with the batch's baseline."""
        batches = super().micro_batches(source, indices)
        baseline = self.job.baseline
        return [replace(some, logps=replace(some.logps, baseline=baseline)) for some in batches]

    def pull(self, grads: Tensor) -> Tensor:
        """Up for a response that people liked, down for another, one of which is 0."""
        return grads[1] - grads[0]

    def _baseline(self, source: PairsWithReference, indices: Sequence[int]) -> float:
        if self.loss is find_loss("kto"):
            return kto_baseline(self.job, [source.tokens[index] for index in indices])
        return self._running_mean(source, indices)

    def _running_mean(self, source: PairsWithReference, indices: Sequence[int]) -> float:
        """Mean log-ratio of all responses so far, those of this batch included."""
        batch = source.batch(indices)
        with torch.no_grad():
            policy = logps_of(self.job, self.job.scorer, batch.pairs)
        pairs = batch.logps.with_policy(*policy)
        ratios = pairs.chosen_logratios + pairs.rejected_logratios  # one of the two is 0
        # Those of the first step, which begins at the reference, are 0.
        seen = self.remembered.get(COUNT, self.config.batch_pairs)
        mean = self.remembered.get(MEAN, 0.0)
        mean += (ratios.mean().item() - mean) * len(indices) / (seen + len(indices))
        self.remembered |= {COUNT: seen + len(indices), MEAN: mean}
        return mean
