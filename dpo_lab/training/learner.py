"""One optimiser step: gradient over a batch, checks, update."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch.nn.utils import clip_grad_norm_

from dpo_lab.kernels.memory import keep_freed_memory, peak_memory
from dpo_lab.models.sharding import own_part, whole
from dpo_lab.training.job import Job
from dpo_lab.training.on_policy import GroupGradient
from dpo_lab.training.online_pairs import OnlinePairs
from dpo_lab.training.pair_gradient import PairGradient
from dpo_lab.training.records import StepRecord
from dpo_lab.training.step_gradient import Outcome, StepGradient
from dpo_lab.training.step_plan import plan_of
from dpo_lab.training.unpaired_gradient import UnpairedGradient

GRADIENTS: dict[str, type[StepGradient]] = {
    "dpo": PairGradient,
    "sft": PairGradient,
    "online-dpo": OnlinePairs,
    "rloo": GroupGradient,
    "grpo": GroupGradient,
}
"""Where a step's gradient comes from, by the method of training."""


class NonFiniteLoss(RuntimeError):
    """The loss, its gradient or a weight is not a finite number."""


class Learner:
    """Policy, optimiser and schedule: all that a step needs and a checkpoint must hold.

    Attributes:
        order: Which pairs make each step, and at which learning rate.
        gradient: Where a step's gradient comes from.
        weights: The weights that are trained, by name.
        new_peak: A peak learning rate that the next record will note, if it was changed.
    """

    def __init__(self, job: Job):
        self.job = job
        self.config = job.config
        self.step = 0
        self.new_peak: float | None = None
        self.order = plan_of(job.plan, job.config, job.train.tokens)
        self.total_steps = self.order.total_steps
        self.processes = job.processes
        named = job.policy.model.named_parameters()
        self.weights = {name: weight for name, weight in named if weight.requires_grad}
        self.parameters = list(self.weights.values())
        self.shards = job.policy.shards
        if job.policy.device.type == "cpu" and not self.shards:
            keep_freed_memory()
        self.optimizer = self.order.optimizer(job.policy.model)
        method = job.step_gradient or GRADIENTS[self.config.method]
        if self.config.loss_function.unpaired and job.step_gradient is None:
            method = UnpairedGradient
        self.gradient: StepGradient = method(job, self.parameters)

    @property
    def beta(self) -> float:
        """The beta of the next step."""
        return self.job.live.beta

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self.job.live.learning_rate * self.order.share_of_peak(self.step)

    @property
    def moved(self) -> bool:
        """Whether a step has changed the policy: a schedule may begin at a learning rate of 0."""
        return any(self.order.share_of_peak(step) for step in range(self.step))

    def change(self, changes: Mapping[str, float]) -> None:
        """Set new values of live settings, by name."""
        self.job.live = replace(self.job.live, **changes)
        self.new_peak = changes.get("learning_rate", self.new_peak)

    def start_record(self) -> StepRecord:
        """The record of step 0, before any metric."""
        return StepRecord(0, 0.0, 0, self.beta, self.learning_rate, {})

    def take_step(self) -> StepRecord:
        """One optimiser step over `batch_pairs` pairs; the last step may have fewer.

        Raises:
            NotTheReference: In step 1, if a log-ratio is not zero.
            NonFiniteLoss: If loss or gradient is not finite; the weights are not changed then.
        """
        started, processor = time.perf_counter(), time.process_time()
        beta, learning_rate = self.beta, self.learning_rate
        indices = self.order.batch(self.step)
        outcome = self.accumulate(indices)
        grad_norm = whole(clip_grad_norm_(self.parameters, self.config.max_grad_norm))
        values = {"pairs": len(indices), **outcome.metrics(beta, first=not self.moved)}
        values["grad_norm"] = grad_norm.item()
        self._check_finite(values)
        if self.new_peak is not None:
            values["change/learning_rate"], self.new_peak = self.new_peak, None
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        seen = self.order.shown(self.step)
        seconds = time.perf_counter() - started
        timing = {
            "seconds": seconds,
            "processor_seconds": time.process_time() - processor,
            "pairs_per_second": len(indices) / seconds,
            "tokens_per_second": outcome.tokens / seconds,
            "peak_memory_gb": peak_memory(self.job.policy.device),
        }
        epoch = self.order.epoch(self.step)
        return StepRecord(self.step, epoch, seen, beta, learning_rate, values, timing)

    def accumulate(self, indices: Sequence[int]) -> Outcome:
        """Add the gradient of a batch to `.grad`, as `StepGradient.accumulate`."""
        return self.gradient.accumulate(indices, self.step, self.beta)

    def _check_finite(self, values: dict[str, float]) -> None:
        bad = [name for name in ("loss", "grad_norm") if not math.isfinite(values.get(name, 0))]
        if bad:
            raise NonFiniteLoss(
                f"step {self.step + 1}: {bad[0]} is {values[bad[0]]} at beta {self.beta:g} and "
                f"learning rate {self.learning_rate:g}. The weights are those of step {self.step}; "
                "go on from the last checkpoint with a lower learning rate (--resume --lr)."
            )

    def check_weights(self) -> None:
        """Raise if training cannot continue from the weights.

        Raises:
            NonFiniteLoss: If a trained weight is not finite, or their gradient on the first pair of
                the last step is not.
        """
        parts = [own_part(weight.detach()) for weight in self.parameters]
        broken = int(sum((~part.isfinite()).sum() for part in parts))
        broken = sum(self.processes.gather(broken)) if self.shards else broken
        what = f"{broken} weights are not finite"
        if not broken:
            indices = self.order.batch(max(self.step, 1) - 1)
            self.gradient.probe(indices[0])
            broken = not whole(clip_grad_norm_(self.parameters, math.inf)).isfinite()
            what = "the gradient is not finite"
            self.optimizer.zero_grad()
        if broken:
            raise NonFiniteLoss(
                f"step {self.step}: after it {what}, at beta {self.beta:g} and peak learning rate "
                f"{self.job.live.learning_rate:g}. The last checkpoint is from before; go on from "
                "it with a lower learning rate (--resume --lr)."
            )
