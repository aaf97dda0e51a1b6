"""Supervised fine-tuning (SFT), the stage before DPO, which makes the reference."""

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
    """Train a model on example responses, minimising `-log pi(y|x)` per token.

    Args:
        language_model: The model; trained in place.
        examples: `(prompt, response)`, text or messages.
        steps: Optimiser steps.
        batch_size: Examples per step.
        learning_rate: Peak of AdamW's learning rate, with cosine decay to 0.
        warmup_steps: Steps of warm-up to the peak.
        seed: Seed of the order of examples.
        penalty: Returns a scalar to add to the loss, given the step.

    Yields:
        The mean loss of each step's response tokens, nats.
    """
    encoder, model = language_model.encoder, language_model.model
    encoded = encoder.encode(*zip(*examples, strict=True))
    sequences = [(example.prompt, example.response) for example in encoded]
    order = PairSampler(len(sequences), batch_size, seed)
    scorer = LogpScorer.probed(language_model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    factor = partial(schedule_factor, "cosine", warmup=warmup_steps, total=steps)
    schedule = LambdaLR(optimizer, factor)
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
