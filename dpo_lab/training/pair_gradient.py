"""The gradient of a preference loss over a batch of pairs, one micro-batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpo_lab.data.batching import integers
from dpo_lab.data.pair_sequences import PairSequences
from dpo_lab.data.shares import shares
from dpo_lab.models.expert_balance import Routers
from dpo_lab.models.scoring import pair_logps
from dpo_lab.objective.pair_logps import PairLogps
from dpo_lab.objective.registry import loss_and_grads
from dpo_lab.objective.weighting import wpo_weights
from dpo_lab.training.job import Job
from dpo_lab.training.metrics import pair_metrics
from dpo_lab.training.pairs import PairBatch, PairsWithReference
from dpo_lab.training.start_check import at_start
from dpo_lab.training.step_gradient import StepGradient

NO_BALANCE = (
    "router_aux_loss_coef: the balancing loss needs weights of all layers at once, which strategy "
    "fsdp never holds. Leave one of the two out."
)


@dataclass(frozen=True, eq=False)
class PairOutcome:
    """Losses, log-probabilities and gradient weights of the pairs in a step.

    Attributes:
        losses: `(pairs,)`, weighted if WPO is used.
        pairs: Log-probabilities of policy and reference.
        gradient_weights: `(pairs,)`, see `gradient_weight`.
        tokens: Tokens that went through the model.
        precision: In which they did.
        balance: Load-balancing loss of the experts, mean over pairs; none unless it is trained on.
    """

    losses: Tensor
    pairs: PairLogps
    gradient_weights: Tensor
    tokens: int
    precision: str
    balance: float | None = None

    @classmethod
    def joined(cls, parts: Sequence[PairOutcome]) -> PairOutcome:
        """The outcomes of several micro-batches as one."""
        if len(parts) == 1:
            return parts[0]
        losses, balance = torch.cat([part.losses for part in parts]), None
        if parts[0].balance is not None:
            balance = sum(part.balance * len(part.losses) for part in parts) / len(losses)
        return cls(
            losses,
            PairLogps.joined([part.pairs for part in parts]),
            torch.cat([part.gradient_weights for part in parts]),
            sum(part.tokens for part in parts),
            parts[0].precision,
            balance,
        )

    def metrics(self, beta: float, *, first: bool) -> dict[str, float]:
        """As `Outcome.metrics`; in the first step every margin is 0, without rounding."""
        pairs = at_start(self.pairs, self.precision) if first else self.pairs
        values = pair_metrics(self.losses, pairs, self.gradient_weights, beta)
        return values if self.balance is None else values | {"router/aux_loss": self.balance}


class PairGradient(StepGradient):
    """The gradient of the mean loss of a batch of pairs: DPO, and every other loss of pairs.

    Args:
        job: The run's job.
        parameters: The weights that are trained.

    Attributes:
        outcome: The kind of outcome of a step.

    Raises:
        ValueError: If the balancing loss is asked for where it cannot be computed.
    """

    outcome: type[PairOutcome] = PairOutcome

    def __init__(self, job: Job, parameters: Sequence[nn.Parameter]):
        super().__init__(job, parameters)
        self.loss = job.config.loss_function
        self.routers = None
        if self.config.router_aux_loss_coef:
            self.routers = Routers.of(job.policy.base, job.policy.name)
            if self.shards:
                raise ValueError(NO_BALANCE)

    def accumulate(self, indices: Sequence[int], step: int, beta: float) -> PairOutcome:
        """As `StepGradient.accumulate`; the outcome is in the order of `micro_batches`."""
        return self.descend(self.job.train, indices, beta)

    def descend(
        self, source: PairsWithReference, indices: Sequence[int], beta: float
    ) -> PairOutcome:
        """Add the gradient of the mean loss of some pairs to `.grad`.

        Args:
            source: The pairs.
            indices: Indices of those to use.
            beta: The beta in use.
        """
        batches = self.micro_batches(source, indices)
        known = self._coupled_losses(batches, beta)
        outcomes, idle = [], self.job.policy.idle_passes(len(batches))
        for number, batch in enumerate(batches):
            with self.lean():
                policy, weights, tokens, balance = self._policy_logps(batch)
                policy.retain_grad()
                pairs = batch.logps.with_policy(*policy.cpu())
                if known is None:
                    losses = to_descend = self.losses(batch, pairs, beta)
                else:
                    losses, grads = known[number]
                    to_descend = grads[0] * pairs.policy_chosen + grads[1] * pairs.policy_rejected
                terms, their_weights = [to_descend], [weights / len(indices)]
                if balance is not None:
                    terms.append(balance * (self.config.router_aux_loss_coef or 0))
                    their_weights.append(torch.tensor(len(batch) / len(indices)).to(balance))
                torch.autograd.backward(terms, their_weights)
            gradient_weights = self.pull(policy.grad.cpu()) * (len(indices) / beta)
            parts = losses.detach() * weights, pairs.detach(), gradient_weights, tokens
            balance = None if balance is None else balance.item()
            outcomes.append(self.outcome(*parts, self.config.precision, balance))
        self.stay_in_step(idle)
        return self.outcome.joined(self.together(outcomes))

    def losses(self, batch: PairBatch, pairs: PairLogps, beta: float) -> Tensor:
        """The loss of each pair, `(pairs,)`.

        Args:
            batch: The pairs.
            pairs: Their log-probabilities.
            beta: The beta in use.
        """
        return self.loss(pairs, beta, **self.config.loss_options)

    def pull(self, grads: Tensor) -> Tensor:
        """How hard each pair pulls, `(pairs,)`, from the gradient by its logps, `(2, pairs)`."""
        return -grads[0]

    def micro_batches(self, source: PairsWithReference, indices: Sequence[int]) -> list[PairBatch]:
        """This process's share of the pairs of a batch, split into micro-batches."""
        cut = self.config.ld_alpha is not None
        mean = source.lengths[0, integers(indices)].mean().item()
        if self.processes.several:
            all_shares = shares([source.tokens[index] for index in indices], self.processes.count)
            indices = [indices[position] for position in all_shares[self.processes.rank]]
        items = [PairSequences.of([source.tokens[index]], cut).scored for index in indices]
        groups = self.job.scorer.groups(items, self.config.micro_batch_tokens) if items else []
        return [source.batch([indices[position] for position in group], mean) for group in groups]

    def _policy_logps(self, batch: PairBatch) -> tuple[Tensor, Tensor, int, Tensor | None]:
        """The policy's logps `(2, pairs)`, the pairs' weights, tokens, and the balancing loss."""
        config, scorer = self.config, self.job.scorer
        sequences = PairSequences.of(batch.pairs, cut=config.ld_alpha is not None)
        laid_out = scorer.batch(sequences.scored)
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
        margins = batch.logps.score_margins
        if margins is not None and config.tie_weight:  # at 0, ties were left out of the data
            weights = weights * torch.where(margins == 0, config.tie_weight, 1.0)
        policy = pair_logps(sequences, sequences.spread(logps), config.ld_alpha)
        return policy, weights, laid_out.real_tokens, balance

    @torch.no_grad()
    def _coupled_losses(
        self, batches: list[PairBatch], beta: float
    ) -> list[tuple[Tensor, Tensor]] | None:
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
        self.stay_in_step(idle)
        theirs = self.processes.gather(ours)
        whole = PairLogps.joined([pairs for part in theirs for pairs in part])
        losses, grads = loss_and_grads(self.loss, whole, beta, **self.config.loss_options)
        sizes = [[len(pairs.policy_chosen) for pairs in part] for part in theirs]
        first = sum(map(sum, sizes[: self.processes.rank]))
        here = slice(first, first + sum(sizes[self.processes.rank]))
        split = sizes[self.processes.rank]
        return list(zip(losses[here].split(split), grads[:, here].split(split, dim=1), strict=True))
