"""Best-of-n by sampling: of n answers of a model to each prompt, the one with the most reward."""

from __future__ import annotations

from collections.abc import Sequence

from dpo_lab.data.builtin import RewardFn
from dpo_lab.data.pairs import Text, prompt_text
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.sampling import Completion, sample


def sample_best_of_n(
    language_model: LanguageModel,
    prompts: Sequence[Text],
    n: int,
    reward_fn: RewardFn,
    *,
    seed: int = 0,
    max_new_tokens: int | None = None,
) -> list[Completion]:
    """The best of n answers to each prompt, sampled at temperature 1; the first of equally good.

    Args:
        language_model: The model.
        prompts: The prompts.
        n: Answers to choose from, at least 1.
        reward_fn: Reward of `(prompt, response)`.
        seed: Random seed.
        max_new_tokens: Most tokens of an answer.

    Raises:
        ValueError: If n is less than 1.

    Source:
        Stiennon et al. 2020 (arXiv 2009.01325); its distribution is `best_of_n_logps`.
    """
    if n < 1:
        raise ValueError(f"n={n}: there is nothing to choose from. Give at least 1.")
    repeated = [prompt for prompt in prompts for _ in range(n)]
    ids = language_model.encoder.prompts(repeated)
    answers = sample(language_model, ids, max_new_tokens=max_new_tokens, seed=seed)
    best = []
    for index, prompt in enumerate(prompts):
        ours = answers[index * n : (index + 1) * n]
        best.append(max(ours, key=lambda answer: reward_fn(prompt_text(prompt), answer.text)))
    return best
