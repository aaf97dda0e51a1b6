"""Supervised fine-tuning: the stage before DPO, which makes a reference that speaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from dpo_lab.data.batching import PairSampler, collate
from dpo_lab.data.pairs import Text
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.scoring import LogpScorer
from dpo_lab.training.schedule import schedule_factor


def supervised_finetune(
    language_model: LanguageModel,
    examples: Sequence[tuple[Text, Text]],
    *,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    warmup_steps: int = 0,
    seed: int = 0,
    penalty: Callable[[int], Tensor] | None = None,
) -> Iterator[float]:
    """Train a model to give the responses of examples, `-log pi(y|x)` a token.

    Args:
        language_model: The model; trained in place.
        examples: `(prompt, response)`, text or messages.
        steps: Optimiser steps.
        batch_size: Examples a step.
        learning_rate: Peak of AdamW's learning rate, which falls to 0 along a cosine.
        warmup_steps: Steps over which it rises.
        seed: Seed of the order.
        penalty: Given the step, a scalar added to the loss.

    Yields:
        After each step, the mean loss of its response tokens, nats.
    """
    encoder, model = language_model.encoder, language_model.model
    encoded = encoder.encode(*zip(*examples, strict=True))
    sequences = [(one.prompt, one.response) for one in encoded]
    order = PairSampler(len(sequences), batch_size, seed)
    scorer = LogpScorer.probed(language_model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    course = partial(schedule_factor, "cosine", warmup=warmup_steps, total=steps)
    schedule = LambdaLR(optimizer, course)
    for step in range(steps):
        batch = collate([sequences[index] for index in order.batch(step)], encoder.pad_id)
        loss = -scorer.token_logps(batch.to(language_model.device)).mean()
        total = loss if penalty is None else loss + penalty(step)
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield loss.item()
