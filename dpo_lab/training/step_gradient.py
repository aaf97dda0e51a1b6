"""Forward and backward passes of a step, which one process makes, or several together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Protocol, TypeVar

import torch
from torch import nn

from dpo_lab.data.pair_sequences import PairSequences
from dpo_lab.kernels.lean_layers import LeanLayers
from dpo_lab.kernels.threads import is_small
from dpo_lab.training.job import Job

T = TypeVar("T")


class Outcome(Protocol):
    """What a step has found besides its gradient.

    Attributes:
        tokens: Tokens that went through the model.
    """

    tokens: int

    def metrics(self, beta: float, *, first: bool) -> Mapping[str, float]:
        """Values for the step's record.

        Args:
            beta: The beta in use.
            first: Whether no step has been made before, so that the policy is the reference.

        Raises:
            NotTheReference: In the first step, if it is not.
        """


class StepGradient(ABC):
    """Where a step's gradient comes from: a method of training.

    Args:
        job: The run's job.
        parameters: The weights that are trained.

    Attributes:
        remembered: What it remembers of earlier steps, by name; a checkpoint holds it.
    """

    def __init__(self, job: Job, parameters: Sequence[nn.Parameter]):
        self.job, self.config, self.parameters = job, job.config, list(parameters)
        self.processes, self.shards = job.processes, job.policy.shards
        self.remembered: dict[str, float] = {}
        # Lean layers make more calls, and call overhead dominates a small model's time.
        # They read weights outside a layer's own pass, where divided ones are not whole.
        plain = job.scorer.autocast or is_small(job.policy.model) or self.shards is not None
        self.lean = nullcontext if plain else LeanLayers(job.policy.model)

    @abstractmethod
    def accumulate(self, indices: Sequence[int], step: int, beta: float) -> Outcome:
        """Add the gradient of a batch to `.grad`, one micro-batch at a time.

        Each process computes the part of its own share; then the parts are added up.

        Args:
            indices: Indices of the batch's training pairs.
            step: Steps made before.
            beta: The beta in use.
        """

    def probe(self, index: int) -> None:
        """Add the gradient of a pair's log-probabilities: finite unless training cannot go on.

        Args:
            index: Index of the pair.
        """
        pair, scorer = self.job.train.tokens[index], self.job.scorer
        with self.lean():
            sides = PairSequences.of([pair]).scored
            scorer.logps(scorer.batch(sides)).sum().backward()

    def stay_in_step(self, passes: int) -> None:
        """Make passes without effect, for the sake of others that divide the weights."""
        scorer = self.job.scorer
        for _ in range(passes):
            logps = scorer.logps(scorer.batch([]))
            if logps.requires_grad:
                logps.backward(torch.zeros_like(logps))

    def together(self, outcomes: list[T]) -> list[T]:
        """The outcomes of all processes, in their order; gradients are added up in `.grad`."""
        if not self.processes.several:
            return outcomes
        has = [weight.grad is not None for weight in self.parameters]
        theirs, theirs_has = zip(*self.processes.gather((outcomes, has)), strict=True)
        if not self.shards:  # whose backward pass adds the gradients up
            used = [
                weight
                for weight, *anywhere in zip(self.parameters, *theirs_has, strict=True)
                if any(anywhere)
            ]
            for weight in used:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
            self.processes.sum_in_place([weight.grad for weight in used])
        return [outcome for part in theirs for outcome in part]
