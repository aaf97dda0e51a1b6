"""Preference pairs from a model's own sampled answers, labelled by a reward function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, Literal

import torch

from dpo_lab.data.builtin import RewardFn
from dpo_lab.data.pairs import PromptFormat, Text, pair_row, prompt_text
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.sampling import sample
from dpo_lab.objective.bradley_terry import sample_preferences


def completion_pairs(
    language_model: LanguageModel,
    prompts: Sequence[Text],
    reward_fn: RewardFn,
    *,
    completions: int = 4,
    labels: Literal["sampled", "better"] = "sampled",
    max_new_tokens: int | None = None,
    prompt_format: PromptFormat = "auto",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Sample several answers to every prompt, and label every pair of them.

    Pairs of equal answers, or with an empty answer, are left out.

    Args:
        language_model: The model that answers, at temperature 1.
        prompts: Prompts; a repeated prompt gets independent answers.
        reward_fn: Ground-truth reward of `(prompt, response)`.
        completions: Answers per prompt; four make six pairs.
        labels: `sampled` from Bradley-Terry with the score, so that the optimum is finite; or
            `better`: the higher score always wins and pairs of equal scores are left out, as in
            the paper.
        max_new_tokens: Maximum tokens of an answer; by default that of `sample`.
        prompt_format: Whether text is put through the chat template, as in `Encoder.as_prompt`.
        seed: Seed of answers and labels.
        progress: Called with `(done, total)` answers.

    Returns:
        Rows with `prompt` as given to the model, `chosen` and `rejected` (messages if the prompt
        is a list of messages), and the ids of both answers, so that training scores what was
        sampled.

    Raises:
        ValueError: If `labels` is neither.

    Source:
        Rafailov et al. 2023, section 6 and appendix C.1: controlled sentiment generation.
    """
    if labels not in ("sampled", "better"):
        raise ValueError(f"labels={labels!r}: must be 'sampled' or 'better'. Give one of these.")
    prompts = language_model.encoder.as_prompts(prompts, prompt_format)
    repeated = [prompt for prompt in prompts for _ in range(completions)]
    answers = sample(
        language_model,
        language_model.encoder.prompts(repeated),
        max_new_tokens=max_new_tokens,
        seed=seed,
        progress=progress,
    )
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for index, prompt in enumerate(prompts):
        sampled = answers[index * completions : (index + 1) * completions]
        scores = {answer.text: reward_fn(prompt_text(prompt), answer.text) for answer in sampled}
        for first, second in combinations(sampled, 2):
            if first.text == second.text or not (first.text and second.text):
                continue
            values = scores[first.text], scores[second.text]
            if labels == "better":
                if values[0] == values[1]:
                    continue
                wins = values[0] > values[1]
            else:
                rewards = torch.tensor(values, dtype=torch.float64)
                wins = sample_preferences(*rewards, generator).item()
            chosen, rejected = (first, second) if wins else (second, first)
            ids = chosen.sampled, rejected.sampled
            rows.append(pair_row(prompt, chosen.text, rejected.text, *ids))
    return rows
