"""Sample two different answers of a model to one prompt, for an annotator to compare."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from dpo_lab.data.pairs import Text
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.sampling import Completion, sample


def two_answers(
    language_model: LanguageModel,
    prompts: Sequence[Text],
    *,
    seed: str,
    max_new_tokens: int | None = None,
) -> list[tuple[Completion, Completion] | None]:
    """Two different answers to each prompt, drawn at temperature 1, in random order.

    Args:
        language_model: The model; it answers all prompts in one batch.
        prompts: Texts, or lists of messages.
        seed: With the same prompts, equal seeds give equal answers in the same order.
        max_new_tokens: Maximum tokens of an answer; by default that of `sample`.

    Returns:
        For each prompt both answers; none if one is blank or they differ in outer white space only.
    """
    random = Random(seed)
    twice = [prompt for prompt in prompts for _ in range(2)]
    answers = sample(
        language_model,
        language_model.encoder.prompts(twice),
        max_new_tokens=max_new_tokens,
        seed=random.getrandbits(48),
    )
    drawn = [random.sample(answers[at : at + 2], 2) for at in range(0, len(answers), 2)]
    return [(a, b) if "" != a.text.strip() != b.text.strip() != "" else None for a, b in drawn]


def prompt_of_draw(prompts: Sequence[Text], draw: int, seed: int) -> Text:
    """The prompt of a draw: each round goes through all prompts, in a new random order.

    Args:
        prompts: Prompts.
        draw: Number of the draw, from 0.
        seed: Seed of the orders.
    """
    turn, index = divmod(draw, len(prompts))
    return Random(f"{seed} {turn}").sample(list(prompts), len(prompts))[index]
