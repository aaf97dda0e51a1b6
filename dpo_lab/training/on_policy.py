"""One batch of RLHF by policy gradients: sample groups, reward them, score them, descend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpo_lab.data.builtin import RewardFn
from dpo_lab.data.pairs import Text, prompt_text
from dpo_lab.models.layouts import TOLERANCE
from dpo_lab.models.reference import Reference
from dpo_lab.models.sampling import Completion, sample
from dpo_lab.models.scoring import LogpScorer
from dpo_lab.objective.policy_gradient import RLOO, PolicyGradient, policy_gradient_loss


class NotThePolicy(RuntimeError):
    """The log-probabilities of answers are not those of the distribution they were sampled from."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Answers of a policy, k to each prompt, with their rewards.

    Attributes:
        completions: The answers, those to one prompt side by side.
        rewards: `(prompts, k)`, float64.
    """

    completions: tuple[Completion, ...]
    rewards: Tensor

    @classmethod
    def sampled(
        cls,
        policy: LogpScorer,
        prompts: Sequence[Text],
        k: int,
        reward_fn: RewardFn,
        *,
        seed: int,
        max_new_tokens: int | None = None,
    ) -> Groups:
        """Sample k answers to each prompt from the policy, at temperature 1.

        Args:
            policy: Scorer of the policy.
            prompts: The prompts.
            k: Answers to each.
            reward_fn: Reward of `(prompt, response)`.
            seed: Random seed.
            max_new_tokens: Most tokens of an answer.
        """
        model = policy.language_model
        repeated = [prompt for prompt in prompts for _ in range(k)]
        completions = sample(
            model,
            model.encoder.prompts(repeated),
            max_new_tokens=max_new_tokens,
            seed=seed,
            with_logps=True,
        )
        rewards = [
            reward_fn(prompt_text(prompt), completion.text)
            for prompt, completion in zip(repeated, completions, strict=True)
        ]
        return cls(tuple(completions), torch.tensor(rewards, dtype=torch.float64).view(-1, k))

    @property
    def equal(self) -> float:
        """Share of the groups whose rewards are all the same, which give no gradient."""
        return (self.rewards == self.rewards[:, :1]).all(-1).double().mean().item()


def group_losses(
    policy: LogpScorer,
    reference: Reference,
    groups: Groups,
    beta: float,
    how: PolicyGradient = RLOO,
) -> Tensor:
    """A loss for each answer, `(prompts, k)`; the mean's gradient estimates minus that of J.

    Args:
        policy: Scorer of the policy, which the answers were sampled from.
        reference: The reference.
        groups: The answers.
        beta: Weight of the KL, > 0.
        how: How the gradient is estimated.

    Raises:
        NotThePolicy: If a token's log-probability differs from the one it was drawn with by more
            than rounding, or that one was not kept.
    """
    sequences = [(completion.prompt, completion.ids) for completion in groups.completions]
    batch = policy.batch(sequences)
    logps, mask = batch.rows(policy.token_logps(batch))
    _check_sampled(policy, groups.completions, logps)
    with torch.no_grad(), reference.active() as frozen:
        before, _ = batch.rows(frozen.token_logps(batch))
    shape = (*groups.rewards.shape, -1)
    rewards = groups.rewards.to(logps.device, logps.dtype)
    parts = (logps.view(shape), before.view(shape), mask.view(shape))
    return policy_gradient_loss(*parts, rewards, beta, how)


def _check_sampled(policy: LogpScorer, completions: Sequence[Completion], logps: Tensor) -> None:
    """Compare the answers' log-probabilities with those that they were drawn with."""
    if any(len(completion.logps) != len(completion.ids) for completion in completions):
        raise NotThePolicy("answers without the log-probabilities that they were drawn with.")
    drawn = torch.zeros_like(logps)
    for row, completion in enumerate(completions):
        drawn[row, : len(completion.logps)] = torch.tensor(completion.logps)
    difference = (logps.detach() - drawn).abs().max().item()
    if not difference <= 2 * TOLERANCE[policy.precision]:
        raise NotThePolicy(
            f"log-probabilities of sampled answers differ by up to {difference:.2g} nats from "
            "those they were drawn with: these are no samples of this policy. Sample after every "
            "update, at temperature 1, with the same precision."
        )
