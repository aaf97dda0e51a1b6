"""Answers that a policy gives while it is trained, several to a prompt, with their rewards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpo_lab.data.batching import Batch
from dpo_lab.data.builtin import RewardFn
from dpo_lab.data.pairs import Text, prompt_text
from dpo_lab.data.text_to_ids import PromptResponse
from dpo_lab.models.layouts import TOLERANCE
from dpo_lab.models.sampling import Completion, share_cut
from dpo_lab.models.scoring import LogpScorer
from dpo_lab.objective.kl import Estimate
from dpo_lab.training.answers import draw_to, rewards_of
from dpo_lab.training.job import Job

FIRST_NUMBER = 1 << 32
"""Number of a step's first answer: its random numbers are not those of an evaluation's answers."""


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

    @property
    def sequences(self) -> list[PromptResponse]:
        """Ids of prompt and answer, of all answers."""
        return [(answer.prompt, answer.ids) for answer in self.completions]

    @property
    def by_prompt(self) -> list[list[PromptResponse]]:
        """The same, a list for each group."""
        every, k = self.sequences, self.rewards.shape[1]
        return [every[start : start + k] for start in range(0, len(every), k)]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each answer."""
        return [len(answer.ids) for answer in self.completions]

    @property
    def equal(self) -> float:
        """Share of the groups whose rewards are all the same, which give no gradient."""
        return (self.rewards == self.rewards[:, :1]).all(-1).double().mean().item()

    def only(self, groups: Sequence[int]) -> Groups:
        """Some of the groups."""
        k = self.rewards.shape[1]
        kept = [self.completions[k * group + place] for group in groups for place in range(k)]
        return Groups(tuple(kept), self.rewards[list(groups)])

    def metrics(self, beta: float, kl: float) -> dict[str, float]:
        """Values for a step's record, under the keys of `metrics.py`.

        Args:
            beta: The beta in use.
            kl: Mean of `log pi(y|x) - log pi_ref(y|x)` over the answers, nats; NaN leaves it out.
        """
        surprise = -sum(logp for answer in self.completions for logp in answer.logps)
        reward = Estimate.of(self.rewards.flatten(), [answer.prompt for answer in self.completions])
        values = {
            "reward": reward.mean,
            "reward_stderr": reward.stderr,
            "objective": reward.mean - beta * kl,
            "kl": kl,
            "entropy": surprise / sum(self.lengths),
            "tokens": sum(self.lengths) / len(self.completions),
            "cut": share_cut(self.completions),
            "equal": self.equal,
            "samples": len(self.completions),
        }
        known = {key: value for key, value in values.items() if value == value}
        return {f"on_policy/{key}": value for key, value in known.items()}


def draw_groups(job: Job, indices: Sequence[int], step: int) -> Groups:
    """Answers of the policy to a step's prompts, at temperature 1, by all processes.

    Args:
        job: Its configuration gives k and the length limit.
        indices: Training pairs, whose prompts are answered.
        step: Steps made before; with the run's seed it decides the random numbers.
    """
    k = job.config.group_size
    repeated = [index for index in indices for _ in range(k)]
    ids = [job.train.tokens[index].prompt for index in repeated]
    seed = job.config.seed * 1_000_003 + step
    return rewarded(
        job,
        job.training_reward,
        [job.train_prompts[index] for index in repeated],
        draw_to(job, job.policy, ids, seed, first_number=FIRST_NUMBER, with_logps=True),
        k,
    )


def rewarded(
    job: Job,
    reward: RewardFn,
    prompts: Sequence[Text],
    completions: Sequence[Completion],
    k: int,
) -> Groups:
    """Answers with their rewards.

    Args:
        job: Its processes divide the answers.
        reward: Of an answer.
        prompts: A prompt for each answer.
        completions: The answers, k to a prompt side by side.
        k: How many.

    Raises:
        ValueError: If a reward is not a finite number.
    """
    rewards = rewards_of(job, reward, prompts, completions)
    for prompt, answer, value in zip(prompts, completions, rewards, strict=True):
        if not math.isfinite(value):
            raise ValueError(
                f"reward: {value} for the answer {answer.text[:60]!r} to "
                f"{prompt_text(prompt)[:60]!r}. A reward must be a finite number: mend what rates "
                "the answers."
            )
    return Groups(tuple(completions), torch.tensor(rewards, dtype=torch.float64).view(-1, k))


def check_drawn(
    policy: LogpScorer, completions: Sequence[Completion], batch: Batch, token_logps: Tensor
) -> None:
    """Raise if answers were not drawn from the policy that scores them.

    Args:
        policy: The scorer.
        completions: The answers, as `batch` lays them out.
        batch: The batch.
        token_logps: Of its scored tokens, `(tokens,)`.

    Raises:
        NotThePolicy: If a token's log-probability differs from the one it was drawn with by more
            than rounding, or that one was not kept.
    """
    if any(len(completion.logps) != len(completion.ids) for completion in completions):
        raise NotThePolicy("answers without the log-probabilities that they were drawn with.")
    logps, mask = batch.rows(token_logps.detach())
    drawn = torch.zeros_like(logps)
    drawn[mask] = torch.tensor(
        [logp for completion in completions for logp in completion.logps]
    ).to(drawn)
    difference = (logps - drawn).abs().max().item()
    if not difference <= 2 * TOLERANCE[policy.precision]:
        raise NotThePolicy(
            f"log-probabilities of sampled answers differ by up to {difference:.2g} nats from "
            "those they were drawn with: these are no samples of this policy. Sample after every "
            "update, at temperature 1, with the same precision."
        )
