"""Training a reward model on pairs by Bradley-Terry: the stage that DPO leaves out."""

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
    """How a reward model is trained.

    Attributes:
        epochs: Passes over the pairs.
        batch_pairs: Pairs in a step; the last one takes what is left.
        learning_rate: Peak for the trunk; rises over a tenth of the steps, falls along a cosine.
        head_learning_rate: Peak for the new head, which begins from nothing.
        weight_decay: AdamW's.
        micro_batch_tokens: Most padded tokens in a forward and backward pass.
        seed: Of the order.
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
        """Defaults by model: 4,000 noisy pairs are few for micro, so its weights decay fast."""
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
        training: How.

    Yields:
        After each step its mean loss, nats; ln 2 where nothing is known.

    Source:
        Rafailov et al. 2023, Eq. 2; Ouyang et al. 2022, section 3.5.
    """
    model, head = reward_model.model, list(reward_model.head.parameters())
    trunk = [p for p in model.parameters() if all(p is not own for own in head)]
    steps = training.steps(len(pairs))
    optimizer = torch.optim.AdamW(
        [
            {"params": trunk, "lr": training.learning_rate},
            {"params": head, "lr": training.head_learning_rate},
        ],
        weight_decay=training.weight_decay,
    )
    course = partial(schedule_factor, "cosine", warmup=round(0.1 * steps), total=steps)
    schedule = LambdaLR(optimizer, course)
    total = training.epochs * len(pairs)
    order = PairSampler(len(pairs), training.batch_pairs, training.seed, total)
    for step in range(steps):
        picked = [pairs[index] for index in order.batch(step)]
        with threads_for(model):
            loss = _accumulate(reward_model, picked, training.micro_batch_tokens)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        yield loss


def _accumulate(reward_model: RewardModel, picked: list[TokenizedPair], budget: int) -> float:
    """Gradient of the mean loss, a micro-batch at a time; the loss, nats."""
    total = 0.0
    for group in token_budget_batches([len(pair) for pair in picked], budget, rows=2):
        some = [picked[index] for index in group]
        chosen = [(pair.prompt, pair.chosen) for pair in some]
        rejected = [(pair.prompt, pair.rejected) for pair in some]
        rewards = reward_model.rewards(chosen + rejected)
        loss = preference_nll(*rewards.split(len(some))).sum() / len(picked)
        loss.backward()
        total += loss.item()
    return total


def reward_margins(
    reward_model: RewardModel | RewardEnsemble, pairs: Sequence[TokenizedPair]
) -> torch.Tensor:
    """`r(x, y_w) - r(x, y_l)` of each pair, `(pairs,)`."""
    chosen = [(pair.prompt, pair.chosen) for pair in pairs]
    rejected = [(pair.prompt, pair.rejected) for pair in pairs]
    first, second = reward_model.score_ids(chosen + rejected).split(len(pairs))
    return first - second
