"""Training a reward model on pairs with the Bradley-Terry loss: the stage that DPO skips."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.optim.lr_scheduler import LambdaLR

from dpo_lab.data.batching import PairSampler, token_budget_batches
from dpo_lab.data.pair_ids import TokenizedPair
from dpo_lab.kernels.threads import threads_for
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.reward import RewardEnsemble, RewardModel
from dpo_lab.objective.bradley_terry import preference_nll
from dpo_lab.training.schedule import schedule_factor


@dataclass(frozen=True)
class RewardTraining:
    """Settings for training a reward model.

    Attributes:
        epochs: Passes over the pairs.
        batch_pairs: Pairs per step; the last step may have fewer.
        learning_rate: Peak for the trunk; warm-up over a tenth of the steps, then cosine decay.
        head_learning_rate: Peak for the new head, which starts from random weights.
        weight_decay: AdamW's.
        micro_batch_tokens: Most padded tokens in a forward and backward pass.
        seed: Seed of the order of pairs.
    """

    epochs: int = 1
    batch_pairs: int = 32
    learning_rate: float = 1e-5
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.0
    micro_batch_tokens: int = 4096
    seed: int = 0

    @classmethod
    def for_model(cls, language_model: LanguageModel) -> RewardTraining:
        """Defaults for a model: micro needs strong weight decay, as 4,000 noisy pairs are few."""
        if language_model.name == "micro":
            return cls(10, 32, 5e-4, 3e-2, 1.0)
        return cls()

    def steps(self, pairs: int) -> int:
        """Optimiser steps of the whole training."""
        return math.ceil(self.epochs * pairs / self.batch_pairs)


def train_reward_model(
    reward_model: RewardModel, pairs: Sequence[TokenizedPair], training: RewardTraining
) -> Iterator[float]:
    """Train a reward model, `-log sigmoid(r(x, y_w) - r(x, y_l))`.

    Args:
        reward_model: Trained in place.
        pairs: Token ids, from `tokenize_pairs`.
        training: The settings.

    Yields:
        The mean loss of each step, nats; ln 2 is chance.

    Source:
        Rafailov et al. 2023, Eq. 2; Ouyang et al. 2022, section 3.5.
    """
    model, head = reward_model.model, list(reward_model.head.parameters())
    trunk = [p for p in model.parameters() if all(p is not weight for weight in head)]
    steps = training.steps(len(pairs))
    optimizer = torch.optim.AdamW(
        [
            {"params": trunk, "lr": training.learning_rate},
            {"params": head, "lr": training.head_learning_rate},
        ],
        weight_decay=training.weight_decay,
    )
    factor = partial(schedule_factor, "cosine", warmup=round(0.1 * steps), total=steps)
    schedule = LambdaLR(optimizer, factor)
    total = training.epochs * len(pairs)
    order = PairSampler(len(pairs), training.batch_pairs, training.seed, total)
    for step in range(steps):
        batch = [pairs[index] for index in order.batch(step)]
        with threads_for(model):
            loss = _accumulate(reward_model, batch, training.micro_batch_tokens)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        yield loss


def _accumulate(reward_model: RewardModel, batch: list[TokenizedPair], budget: int) -> float:
    """Add the gradient of the mean loss, one micro-batch at a time; returns the loss, nats."""
    total = 0.0
    for group in token_budget_batches([len(pair) for pair in batch], budget, rows=2):
        micro_batch = [batch[index] for index in group]
        chosen = [(pair.prompt, pair.chosen) for pair in micro_batch]
        rejected = [(pair.prompt, pair.rejected) for pair in micro_batch]
        rewards = reward_model.rewards(chosen + rejected)
        loss = preference_nll(*rewards.split(len(micro_batch))).sum() / len(batch)
        loss.backward()
        total += loss.item()
    return total


def reward_margins(
    reward_model: RewardModel | RewardEnsemble, pairs: Sequence[TokenizedPair]
) -> torch.Tensor:
    """`r(x, y_w) - r(x, y_l)` of each pair, `(pairs,)`."""
    chosen = [(pair.prompt, pair.chosen) for pair in pairs]
    rejected = [(pair.prompt, pair.rejected) for pair in pairs]
    first, second = reward_model.rewards_of_ids(chosen + rejected).split(len(pairs))
    return first - second
