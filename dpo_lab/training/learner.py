"""One optimiser step: gradient over a batch, checks, update."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from dpo_lab.data.batching import integers
from dpo_lab.data.pair_sequences import PairSequences
from dpo_lab.data.shares import shares
from dpo_lab.kernels.lean_layers import LeanLayers
from dpo_lab.kernels.memory import keep_freed_memory, peak_memory
from dpo_lab.kernels.threads import is_small
from dpo_lab.models.expert_balance import Routers
from dpo_lab.models.scoring import pair_logps
from dpo_lab.models.sharding import own_part, whole
from dpo_lab.objective.pair_logps import PairLogps
from dpo_lab.objective.registry import loss_and_grads
from dpo_lab.objective.weighting import wpo_weights
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.metrics import pair_metrics
from dpo_lab.training.pairs import PairBatch
from dpo_lab.training.records import StepRecord
from dpo_lab.training.schedule import schedule_factor
from dpo_lab.training.setup import Job, pair_order
from dpo_lab.training.start_check import at_start

NO_BALANCE = (
    "router_aux_loss_coef: the balancing loss needs weights of all layers at once, which strategy "
    "fsdp never holds. Leave one of the two out."
)


class NonFiniteLoss(RuntimeError):
    """The loss, its gradient or a weight is not a finite number."""


@dataclass(frozen=True, eq=False)
class BatchOutcome:
    """Losses, log-probabilities and gradient weights of the pairs in a step.

    Attributes:
        losses: `(pairs,)`, weighted if WPO is used.
        pairs: Log-probabilities of policy and reference.
        gradient_weights: `(pairs,)`, see `gradient_weight`.
        tokens: Tokens that went through the model.
        balance: Load-balancing loss of the experts, mean over pairs; 0 unless it is trained on.
    """

    losses: Tensor
    pairs: PairLogps
    gradient_weights: Tensor
    tokens: int
    balance: float = 0.0

    @classmethod
    def joined(cls, parts: Sequence[BatchOutcome]) -> BatchOutcome:
        """The outcomes of several micro-batches as one."""
        if len(parts) == 1:
            return parts[0]
        losses = torch.cat([part.losses for part in parts])
        return cls(
            losses,
            PairLogps.joined([part.pairs for part in parts]),
            torch.cat([part.gradient_weights for part in parts]),
            sum(part.tokens for part in parts),
            sum(part.balance * len(part.losses) for part in parts) / len(losses),
        )


class Learner:
    """Policy, optimiser and schedule: all that a step needs and a checkpoint must hold.

    Attributes:
        weights: The weights that are trained, by name.
        new_peak: A peak learning rate that the next record will note, if it was changed.
    """

    def __init__(self, job: Job):
        self.job = job
        self.config = job.config
        self.loss = job.config.loss_function
        self.step = 0
        self.new_peak: float | None = None
        self.total_steps = job.config.total_steps(len(job.train))
        self.order = pair_order(job.config, len(job.train))
        self.processes = job.processes
        named = job.policy.model.named_parameters()
        self.weights = {name: weight for name, weight in named if weight.requires_grad}
        self.parameters = list(self.weights.values())
        self.shards = job.policy.shards
        if job.policy.device.type == "cpu" and not self.shards:
            keep_freed_memory()
        # Lean layers make more calls, and call overhead dominates a small model's time.
        # They read weights outside a layer's own pass, where divided ones are not whole.
        plain = job.scorer.autocast or is_small(job.policy.model) or self.shards is not None
        self.lean = nullcontext if plain else LeanLayers(job.policy.model)
        self.optimizer = _optimizer(self.config, self.parameters)
        self.routers = None
        if self.config.router_aux_loss_coef:
            self.routers = Routers.of(job.policy.base, job.policy.name)
            if self.shards:
                raise ValueError(NO_BALANCE)

    @property
    def beta(self) -> float:
        """The beta of the next step."""
        return self.job.live.beta

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        warmup = self.config.warmup(self.total_steps)
        kind, total = self.config.schedule, self.total_steps
        share = schedule_factor(kind, min(self.step, total - 1), warmup, total)
        return self.job.live.learning_rate * share

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
        pairs = outcome.pairs if self.step else at_start(outcome.pairs, self.config.precision)
        metrics = pair_metrics(outcome.losses, pairs, outcome.gradient_weights, beta)
        values = {"pairs": len(indices)} | metrics
        values["grad_norm"] = grad_norm.item()
        values |= {"router/aux_loss": outcome.balance} if self.routers else {}
        self._check_finite(values)
        if self.new_peak is not None:
            values["change/learning_rate"], self.new_peak = self.new_peak, None
        self.optimizer.param_groups[0]["lr"] = learning_rate
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
        epoch = seen / len(self.job.train)
        return StepRecord(self.step, epoch, seen, beta, learning_rate, values, timing)

    def accumulate(self, indices: Sequence[int]) -> BatchOutcome:
        """Add the gradient of a batch's mean loss to `.grad`, one micro-batch at a time.

        Each process computes the part of its own pairs; then the parts are added up.

        Args:
            indices: Indices of the batch's pairs.

        Returns:
            The outcome of the whole batch, in the order of processes and `micro_batches`.
        """
        batches = self.micro_batches(indices)
        known = self._coupled_losses(batches)
        outcomes, idle = [], self.job.policy.idle_passes(len(batches))
        for number, batch in enumerate(batches):
            with self.lean():
                policy, weights, tokens, balance = self._policy_logps(batch)
                policy.retain_grad()
                pairs = batch.logps.with_policy(*policy.cpu())
                if known is None:
                    losses = to_descend = self.loss(pairs, self.beta, **self.config.loss_options)
                else:
                    losses, grads = known[number]
                    to_descend = grads[0] * pairs.policy_chosen + grads[1] * pairs.policy_rejected
                terms, their_weights = [to_descend], [weights / len(indices)]
                if balance is not None:
                    terms.append(balance * (self.config.router_aux_loss_coef or 0))
                    their_weights.append(torch.tensor(len(batch) / len(indices)).to(balance))
                torch.autograd.backward(terms, their_weights)
            gradient_weights = policy.grad[0].cpu() * (-len(indices) / self.beta)
            parts = losses.detach() * weights, pairs.detach(), gradient_weights, tokens
            outcomes.append(BatchOutcome(*parts, 0.0 if balance is None else balance.item()))
        self._stay_in_step(idle)
        return self._together(outcomes)

    def _stay_in_step(self, passes: int) -> None:
        """Make passes without effect, for the others' sake."""
        scorer = self.job.scorer
        for _ in range(passes):
            logps = scorer.logps(scorer.batch([]))
            if logps.requires_grad:
                logps.backward(torch.zeros_like(logps))

    def micro_batches(self, indices: Sequence[int]) -> list[PairBatch]:
        """This process's share of the pairs of a batch, split into micro-batches."""
        train, cut = self.job.train, self.config.ld_alpha is not None
        mean = train.lengths[0, integers(indices)].mean().item()
        if self.processes.several:
            all_shares = shares([train.tokens[index] for index in indices], self.processes.count)
            indices = [indices[position] for position in all_shares[self.processes.rank]]
        items = [PairSequences.of([train.tokens[index]], cut).all for index in indices]
        groups = self.job.scorer.groups(items, self.config.micro_batch_tokens) if items else []
        return [train.batch([indices[position] for position in group], mean) for group in groups]

    def _together(self, outcomes: list[BatchOutcome]) -> BatchOutcome:
        """The outcomes of all processes as one; their gradients are added up in `.grad`."""
        if not self.processes.several:
            return BatchOutcome.joined(outcomes)
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
        return BatchOutcome.joined([outcome for part in theirs for outcome in part])

    def _policy_logps(self, batch: PairBatch) -> tuple[Tensor, Tensor, int, Tensor | None]:
        """The policy's logps `(2, pairs)`, the pairs' weights, tokens, and the balancing loss."""
        config, scorer = self.config, self.job.scorer
        sequences = PairSequences.of(batch.pairs, cut=config.ld_alpha is not None)
        laid_out = scorer.batch(sequences.all)
        weights = torch.ones(len(batch))
        balance = None
        with self.routers.recorded() if self.routers else nullcontext() as router_logits:
            if config.use_weighting:
                logps, aligned = scorer.aligned_logps(laid_out)
                weights = wpo_weights(*aligned[: 2 * len(batch)].view(2, -1)).cpu()
            else:
                logps = scorer.logps(laid_out)
            if self.routers:
                balance = self.routers.loss(router_logits, laid_out)
        policy = pair_logps(sequences, logps, config.ld_alpha)
        return policy, weights, laid_out.real_tokens, balance

    @torch.no_grad()
    def _coupled_losses(self, batches: list[PairBatch]) -> list[tuple[Tensor, Tensor]] | None:
        """Losses and gradients of each micro-batch, if the loss couples pairs across micro-batches.

        The whole batch is scored first, by all processes; each micro-batch then goes through the
        model again with the gradients found here. None if each micro-batch can compute its own
        loss.
        """
        alone = not self.processes.several and len(batches) == 1
        if alone or not self.loss.couples_pairs:
            return None
        idle = self.job.policy.idle_passes(len(batches))
        ours = [batch.logps.with_policy(*self._policy_logps(batch)[0].cpu()) for batch in batches]
        self._stay_in_step(idle)
        theirs = self.processes.gather(ours)
        whole = PairLogps.joined([pairs for part in theirs for pairs in part])
        losses, grads = loss_and_grads(self.loss, whole, self.beta, **self.config.loss_options)
        sizes = [[len(pairs.policy_chosen) for pairs in part] for part in theirs]
        first = sum(map(sum, sizes[: self.processes.rank]))
        here = slice(first, first + sum(sizes[self.processes.rank]))
        split = sizes[self.processes.rank]
        return list(zip(losses[here].split(split), grads[:, here].split(split, dim=1), strict=True))

    def _check_finite(self, values: dict[str, float]) -> None:
        bad = [name for name in ("loss", "grad_norm") if not math.isfinite(values[name])]
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
            self.accumulate(indices[:1])
            broken = not whole(clip_grad_norm_(self.parameters, math.inf)).isfinite()
            what = "the gradient is not finite"
            self.optimizer.zero_grad()
        if broken:
            raise NonFiniteLoss(
                f"step {self.step}: after it {what}, at beta {self.beta:g} and peak learning rate "
                f"{self.job.live.learning_rate:g}. The last checkpoint is from before; go on from "
                "it with a lower learning rate (--resume --lr)."
            )


def _optimizer(config: TrainConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=config.learning_rate)
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=parameters[0].device.type in ("cpu", "cuda"),
    )
