"""The exact reward-KL frontier of a model whose every response can be listed, as micro's can."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dpo_lab.data.encoding import Ids
from dpo_lab.data.preferences import Score, Text, prompt_text
from dpo_lab.models.enumeration import Enumeration, enumerate_responses, next_token_logps
from dpo_lab.models.loading import LanguageModel
from dpo_lab.objective.optimum import Frontier

MAX_WORDS = 3
_PROBED = 20
_UNENDED = 1e-3


def exact_frontier(
    reference: LanguageModel, prompts: Sequence[Text], score: Score, max_words: int = MAX_WORDS
) -> Frontier:
    """The frontier over some prompts, of all responses of a reference.

    Args:
        reference: A model of a small vocabulary that ends after `max_words` words.
        prompts: Prompts that weigh the same.
        score: Ground-truth reward of `(prompt, response)`.
        max_words: Most words of a response.

    Raises:
        ValueError: If its responses cannot all be listed, or it says more.
    """
    found = []
    for ids in reference.encoder.prompts(prompts):
        responses = enumerate_responses(reference, ids, max_words=max_words, then_ends=True)
        _check_that_it_ends(reference, ids, responses)
        found.append(responses)
    texts = [found[0].text(reference, index) for index in range(len(found[0].logps))]
    rewards = [[score(prompt_text(prompt), text) for text in texts] for prompt in prompts]
    logps = torch.stack([responses.logps for responses in found])
    return Frontier(logps.cpu(), torch.tensor(rewards, dtype=torch.float64))


def _check_that_it_ends(reference: LanguageModel, prompt: Ids, responses: Enumeration) -> None:
    """After its likeliest responses of the most words there must be nothing but the end."""
    (end,) = reference.encoder.end_ids
    most_words = responses.words[:, -1] >= 0
    likely = responses.logps.masked_fill(~most_words, -torch.inf).topk(_PROBED).indices
    ends = next_token_logps(reference, prompt, responses.words[likely])[:, end].exp()
    if ends.min() < 1 - _UNENDED:
        raise ValueError(
            f"{reference.name}: goes on after {responses.words.shape[1]} words, so that its "
            "responses cannot all be listed. Use a model like 'micro', or sample."
        )
