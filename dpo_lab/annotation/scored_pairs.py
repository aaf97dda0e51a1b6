"""Preference pairs from a model's own answers and a score: four answers, six pairs."""

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
    score: RewardFn,
    *,
    completions: int = 4,
    labels: Literal["sampled", "better"] = "sampled",
    max_new_tokens: int | None = None,
    prompt_format: PromptFormat = "auto",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Draw several answers to every prompt, and compare each with each.

    Pairs of equal answers, and of an empty one, are left out.

    Args:
        language_model: Who answers, at temperature 1.
        prompts: Prompts; one that comes twice gets independent answers.
        score: Ground-truth reward of `(prompt, response)`.
        completions: Answers to a prompt; four make six pairs.
        labels: `sampled` from Bradley-Terry with the score, so that the optimum is finite; or
            `better`, the higher score wins always and pairs of equal scores are left out, as in
            the paper.
        max_new_tokens: Most tokens of an answer; by default as many as `sample` draws.
        prompt_format: Whether text is put through the chat template, as `Encoder.as_prompt`.
        seed: Of answers and labels.
        progress: Called with `(done, total)` answers.

    Returns:
        Rows with `prompt`, as the model got it, `chosen` and `rejected`, messages where the prompt
        is made of messages; and with the ids of both answers, so that training scores what was
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
        own = answers[index * completions : (index + 1) * completions]
        worth = {one.text: score(prompt_text(prompt), one.text) for one in own}
        for first, second in combinations(own, 2):
            if first.text == second.text or not (first.text and second.text):
                continue
            values = worth[first.text], worth[second.text]
            if labels == "better":
                if values[0] == values[1]:
                    continue
                wins = values[0] > values[1]
            else:
                rewards = torch.tensor(values, dtype=torch.float64)
                wins = sample_preferences(*rewards, generator).item()
            chosen, rejected = (first, second) if wins else (second, first)
            sampled = chosen.sampled, rejected.sampled
            rows.append(pair_row(prompt, chosen.text, rejected.text, *sampled))
    return rows
