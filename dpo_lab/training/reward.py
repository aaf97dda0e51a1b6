"""Training a reward model on pairs with the Bradley-Terry loss: the stage that DPO skips."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.optim.lr_scheduler import LambdaLR

from dpo_lab.data.batching import PairSampler, token_budget_batches
from dpo_lab.data.pair_ids import TokenizedPair
from dpo_lab.kernels.threads import threads_for
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.reward import RewardEnsemble, RewardModel, new_reward_model
from dpo_lab.objective.bradley_terry import preference_nll
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.job import Progress
from dpo_lab.training.outcome import MeanCI
from dpo_lab.training.policy import ready_policy
from dpo_lab.training.schedule import schedule_factor
from dpo_lab.training.setup import load_data, tokenize
from dpo_lab.training.text_record import with_template


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

    epochs: float = 1
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
    reward_model: RewardModel,
    pairs: Sequence[TokenizedPair],
    training: RewardTraining,
    chances: torch.Tensor | None = None,
) -> Iterator[float]:
    """Train a reward model, `-log sigmoid(r(x, y_w) - r(x, y_l))`.

    Args:
        reward_model: Trained in place.
        pairs: Token ids, from `tokenize_pairs`.
        training: The settings.
        chances: `(pairs,)`, the probability of each pair's label, if it is known: the loss is its
            mean over the label then.

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
    total = round(training.epochs * len(pairs))
    order = PairSampler(len(pairs), training.batch_pairs, training.seed, total)
    for step in range(steps):
        indices = order.batch(step)
        batch = [pairs[index] for index in indices]
        first = torch.ones(len(indices)) if chances is None else chances[indices]
        with threads_for(model):
            loss = _accumulate(reward_model, batch, first, training.micro_batch_tokens)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        yield loss


def _accumulate(
    reward_model: RewardModel, batch: list[TokenizedPair], first: torch.Tensor, budget: int
) -> float:
    """Add the gradient of the mean loss, one micro-batch at a time; returns the loss, nats."""
    total = 0.0
    for group in token_budget_batches([len(pair) for pair in batch], budget, rows=2):
        micro_batch = [batch[index] for index in group]
        chosen = [(pair.prompt, pair.chosen) for pair in micro_batch]
        rejected = [(pair.prompt, pair.rejected) for pair in micro_batch]
        won, lost = reward_model.rewards(chosen + rejected).split(len(micro_batch))
        share = first[group].to(won)
        losses = share * preference_nll(won, lost) + (1 - share) * preference_nll(lost, won)
        loss = losses.sum() / len(batch)
        loss.backward()
        total += loss.item()
    return total


def reward_model_for(
    config: TrainConfig,
    *,
    progress: Progress | None = None,
    **changes: float,
) -> tuple[RewardModel, MeanCI | None]:
    """A reward model of a run's training pairs, for `TrainConfig.reward`.

    Args:
        config: Model, data, lengths, seed and device; the rest has no part.
        progress: Called with the current work, how much is done, and the total.
        **changes: Of `RewardTraining`, in place of what `for_model` says.

    Returns:
        The reward model; the share of held-out pairs whose chosen answer it rates higher, if any
        are held out.

    Raises:
        FileNotFoundError: If model or data are not found.
        ValueError: If data, model or settings do not fit together.
    """
    train, held_out = load_data(config)
    policy = ready_policy(replace(config, lora_rank=None))
    with_template(policy, config)
    pairs, unseen = (
        tokenize(config, some, policy.tokenizer, policy.encoder.vocabulary) if len(some) else ()
        for some in (train, held_out)
    )
    training = replace(RewardTraining.for_model(policy), seed=config.seed, **changes)
    training = replace(training, batch_pairs=min(training.batch_pairs, len(pairs)))
    reward_model, steps = new_reward_model(policy, config.seed), training.steps(len(pairs))
    for step, loss in enumerate(train_reward_model(reward_model, pairs, training), 1):
        if not math.isfinite(loss):
            raise ValueError(
                f"step {step}: the reward model's loss is {loss}. Use a lower learning rate."
            )
        if progress:
            progress(f"reward model, loss {loss:.3f}", step, steps)
    if not unseen:
        return reward_model, None
    right = (reward_margins(reward_model, unseen) > 0).double().mean().item()
    return reward_model, MeanCI.of_share(right, len(unseen))


def reward_margins(
    reward_model: RewardModel | RewardEnsemble, pairs: Sequence[TokenizedPair]
) -> torch.Tensor:
    """`r(x, y_w) - r(x, y_l)` of each pair, `(pairs,)`."""
    chosen = [(pair.prompt, pair.chosen) for pair in pairs]
    rejected = [(pair.prompt, pair.rejected) for pair in pairs]
    first, second = reward_model.rewards_of_ids(chosen + rejected).split(len(pairs))
    return first - second
