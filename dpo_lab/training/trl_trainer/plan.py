"""The steps as transformers' trainer takes them: its order of rows, its epochs, its warm-up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import RandomSampler
from transformers import Trainer, TrainingArguments, get_scheduler

from dpo_lab.training.step_plan import StepPlan


@dataclass(frozen=True)
class TrlPlan(StepPlan):
    """The plan of `trl.DPOTrainer` with the same arguments and the same number of rows.

    No step goes on into the next epoch, whose first steps are again whole. Pairs that several
    batches accumulate make one batch here, with the same gradient if they are of one size.

    Attributes:
        args: The arguments.
    """

    args: TrainingArguments

    @cached_property
    def per_epoch(self) -> int:
        """Pairs that an epoch uses."""
        small = self.args.per_device_train_batch_size * self.args.world_size
        return self.pairs // small * small if self.args.dataloader_drop_last else self.pairs

    @cached_property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        return max(1, math.ceil(self.per_epoch / self.config.batch_pairs))

    @cached_property
    def total_steps(self) -> int:
        """Optimiser steps of the run."""
        if self.args.max_steps > 0:
            return self.args.max_steps
        return math.ceil(self.args.num_train_epochs * self.steps_per_epoch)

    def batch(self, step: int) -> list[int]:
        """Indices of the pairs of a step, counted from 0.

        Raises:
            ValueError: If an epoch has no step.
        """
        if not self.per_epoch:
            raise ValueError(
                f"dataloader_drop_last=True: {self.pairs} pairs make no whole batch of "
                f"{self.args.per_device_train_batch_size}. Give a smaller batch, or leave it out."
            )
        epoch, within = divmod(step, self.steps_per_epoch)
        size = self.config.batch_pairs
        order = range(self.pairs)
        if self.args.train_sampling_strategy == "random":
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            order = _permutation(self.pairs, seed + epoch)
        return list(order[: self.per_epoch][within * size : (within + 1) * size])

    def shown(self, steps: int) -> int:
        """Pairs that so many steps use."""
        epochs, within = divmod(steps, self.steps_per_epoch)
        part = min(within * self.config.batch_pairs, self.per_epoch)
        return epochs * self.per_epoch + part

    def epoch(self, steps: int) -> float:
        """Passes over the pairs, as transformers counts them: in batches of one device."""
        epochs, within = divmod(steps, self.steps_per_epoch)
        small = self.args.per_device_train_batch_size * self.args.world_size
        batches = math.ceil(self.per_epoch / small)
        done = min(within * self.args.gradient_accumulation_steps, batches)
        return epochs + done / max(batches, 1)

    @cached_property
    def _factor(self) -> Any:
        """Learning rate of a step as a share of the peak, from transformers' own scheduler."""
        dummy = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        warmup = self.args.get_warmup_steps(self.total_steps)
        name = self.args.lr_scheduler_type
        return get_scheduler(name, dummy, warmup, self.total_steps).lr_lambdas[0]

    def share_of_peak(self, step: int) -> float:
        """Learning rate of a step, counted from 0, as a share of the peak."""
        return self._factor(min(step, self.total_steps - 1))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Transformers' own, which leaves biases and norms without weight decay."""
        kind, options = Trainer.get_optimizer_cls_and_kwargs(self.args, cast(Any, model))
        decayed = set(Trainer.get_decay_parameter_names(cast(Any, None), model))
        named = [(n, weight) for n, weight in model.named_parameters() if weight.requires_grad]
        groups = [
            {"params": [w for n, w in named if n in decayed], "weight_decay": decay}
            for decay, decayed in (
                (self.args.weight_decay, decayed),
                (0.0, {n for n, _ in named} - decayed),
            )
        ]
        return kind(groups, **options)


@lru_cache(maxsize=2)
def _permutation(size: int, seed: int) -> list[int]:
    """The order in which accelerate's seeded sampler gives out so many rows."""
    generator = torch.Generator().manual_seed(seed)
    return list(RandomSampler(range(size), generator=generator))
