"""RLHF by policy gradients: sample groups, reward them, score them, descend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpo_lab.models.reference import Reference
from dpo_lab.models.scoring import LogpScorer
from dpo_lab.objective.policy_gradient import RLOO, PolicyGradient, policy_gradient_loss
from dpo_lab.training.groups import Groups, check_drawn, draw_groups
from dpo_lab.training.start_check import check_start
from dpo_lab.training.step_gradient import StepGradient


@dataclass(frozen=True, eq=False)
class GroupOutcome:
    """What a step of policy gradients has found.

    Attributes:
        groups: The answers of the whole batch.
        logps: `(2, answers)`, `log pi(y|x)` and `log pi_ref(y|x)`, nats, of all processes in turn.
        tokens: Tokens that went through the policy.
        precision: In which they did.
    """

    groups: Groups
    logps: Tensor
    tokens: int
    precision: str

    def metrics(self, beta: float, *, first: bool) -> dict[str, float]:
        """As `Outcome.metrics`: those of `Groups.metrics`."""
        policy, reference = self.logps
        ratios = policy - reference
        if first:
            check_start(ratios, max(self.groups.lengths), self.precision)
            ratios = torch.zeros_like(ratios)
        return self.groups.metrics(beta, ratios.mean().item())


class GroupGradient(StepGradient):
    """An estimate of minus the gradient of J, from k answers of the policy to each prompt."""

    def accumulate(self, indices: Sequence[int], step: int, beta: float) -> GroupOutcome:
        """As `StepGradient.accumulate`; the batch is the prompts of those pairs."""
        groups, how = draw_groups(self.job, indices, step), self.config.policy_gradient
        ours = self.processes.mine(range(len(indices)))
        items = [groups.by_prompt[number] for number in ours]
        batches = self.job.scorer.groups(items, self.config.micro_batch_tokens) if items else []
        found, idle = [], self.job.policy.idle_passes(len(batches))
        for batch in batches:
            part = groups.only([ours[position] for position in batch])
            with self.lean():
                losses, logps = group_losses(self.job.scorer, self.job.reference, part, beta, how)
                (losses.sum() / groups.rewards.numel()).backward()
            tokens = sum(len(prompt) + len(answer) for prompt, answer in part.sequences)
            found.append((logps.cpu(), tokens))
        self.stay_in_step(idle)
        every, tokens = zip(*self.together(found), strict=True)
        return GroupOutcome(groups, torch.cat(every, 1), sum(tokens), self.config.precision)

    def stay_in_step(self, passes: int) -> None:
        """As `StepGradient.stay_in_step`, the reference's pass before each of the policy's."""
        for _ in range(passes):
            with torch.no_grad(), self.job.reference.active() as frozen:
                frozen.logps(frozen.batch([]))
            super().stay_in_step(1)


def group_losses(
    policy: LogpScorer,
    reference: Reference,
    groups: Groups,
    beta: float,
    how: PolicyGradient = RLOO,
) -> tuple[Tensor, Tensor]:
    """A loss for each answer; the mean's gradient estimates minus that of J.

    Args:
        policy: Scorer of the policy, which the answers were sampled from.
        reference: The reference.
        groups: The answers.
        beta: Weight of the KL, > 0.
        how: How the gradient is estimated.

    Returns:
        The losses, `(prompts, k)`; `log pi(y|x)` and `log pi_ref(y|x)`, `(2, answers)`, nats,
        without gradient.

    Raises:
        NotThePolicy: If the answers are not the policy's.
    """
    batch = policy.batch(groups.sequences)
    with torch.no_grad(), reference.active() as frozen:
        before, _ = batch.rows(frozen.token_logps(batch))
    token_logps = policy.token_logps(batch)
    check_drawn(policy, groups.completions, batch, token_logps)
    logps, mask = batch.rows(token_logps)
    shape = (*groups.rewards.shape, -1)
    rewards = groups.rewards.to(logps.device, logps.dtype)
    parts = (logps.view(shape), before.view(shape), mask.view(shape))
    losses = policy_gradient_loss(*parts, rewards, beta, how)
    return losses, torch.stack([logps.detach().sum(-1), before.sum(-1)])
