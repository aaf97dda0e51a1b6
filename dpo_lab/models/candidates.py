"""Two different answers of a model to one prompt, for somebody to compare."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from dpo_lab.data.rows import Text
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.sampling import sample

TRIES = 8
"""Draws after which a model is taken to have one answer only."""


def two_answers(
    language_model: LanguageModel,
    prompt: Text,
    *,
    seed: str,
    max_new_tokens: int = 48,
    tries: int = TRIES,
) -> tuple[str, str] | None:
    """Two different answers, drawn at temperature 1, in random order.

    Args:
        language_model: Who answers.
        prompt: Text, or messages.
        seed: Equal seeds give equal answers in the same order.
        max_new_tokens: Most tokens of an answer.
        tries: How often two are drawn while they are equal, or one is empty.

    Returns:
        Both texts; none if no try gave two that differ.
    """
    random = Random(seed)
    ids = language_model.encoder.prompts([prompt, prompt])
    for _ in range(tries):
        drawn = sample(
            language_model, ids, max_new_tokens=max_new_tokens, seed=random.getrandbits(48)
        )
        first, second = random.sample([one.text for one in drawn], 2)
        if first and second and first != second:
            return first, second
    return None


def as_prompts(language_model: LanguageModel, prompts: Sequence[Text]) -> list[Text]:
    """Prompts as a model expects them: texts become messages if it has a chat template."""
    as_prompt = language_model.encoder.as_prompt
    return [as_prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]


def prompt_of_draw(prompts: Sequence[Text], draw: int, seed: int) -> Text:
    """The prompt that a draw is for: all of them in turn, in another order every round.

    Args:
        prompts: Prompts.
        draw: Number of the draw, from 0.
        seed: Of the orders.
    """
    turn, place = divmod(draw, len(prompts))
    return Random(f"{seed} {turn}").sample(list(prompts), len(prompts))[place]
