"""`StepPlan`: which pairs make each step, how many steps there are, how far each one goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import nn

from dpo_lab.data.batching import PairSampler
from dpo_lab.data.pair_ids import TokenizedPair
from dpo_lab.data.pairs import Pair
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.schedule import schedule_factor


@dataclass(frozen=True)
class StepPlan:
    """The plan of a run by its settings; a subclass may follow other rules.

    A function of the step, so that a resumed run needs no state.

    Attributes:
        config: The settings of the run.
        pairs: Number of training pairs.
        groups: The group of each pair, where a group's pairs share a batch.
    """

    config: TrainConfig
    pairs: int
    groups: tuple[int, ...] = field(default=(), kw_only=True)

    @cached_property
    def order(self) -> PairSampler:
        """The order of the pairs."""
        config = self.config
        total = config.total_pairs(self.pairs)
        return PairSampler(self.pairs, config.batch_pairs, config.seed, total, self.groups)

    @cached_property
    def total_steps(self) -> int:
        """Optimiser steps of the run."""
        return self.config.total_steps(self.pairs)

    def batch(self, step: int) -> list[int]:
        """Indices of the pairs of a step, counted from 0."""
        return self.order.batch(step)

    def shown(self, steps: int) -> int:
        """Pairs that so many steps use, each time a pair is used counted."""
        return self.order.shown(steps)

    def epoch(self, steps: int) -> float:
        """Passes over the pairs that so many steps make."""
        return self.shown(steps) / self.pairs

    def share_of_peak(self, step: int) -> float:
        """Learning rate of a step, counted from 0, as a share of the peak."""
        warmup, total = self.config.warmup(self.total_steps), self.total_steps
        return schedule_factor(self.config.schedule, min(step, total - 1), warmup, total)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of the weights that are trained."""
        parameters = [weight for weight in model.parameters() if weight.requires_grad]
        if self.config.optimizer == "rmsprop":
            return torch.optim.RMSprop(parameters, lr=self.config.learning_rate)
        return torch.optim.AdamW(
            parameters,
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=parameters[0].device.type in ("cpu", "cuda"),
        )


def plan_of(
    plan: Callable[[TrainConfig, int], StepPlan],
    config: TrainConfig,
    pairs: Sequence[Pair] | Sequence[TokenizedPair],
) -> StepPlan:
    """The plan of a run on these pairs, those of a prompt in one batch if the settings say so."""
    made = plan(config, len(pairs))
    if not (config.group_by_prompt or config.loss_function.ranked):
        return made
    numbers: dict[str, int] = {}
    prompts = [str(pair.prompt) for pair in pairs]
    groups = tuple(numbers.setdefault(prompt, len(numbers)) for prompt in prompts)
    return replace(made, groups=groups)
