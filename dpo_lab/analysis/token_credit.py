"""Token credit: which tokens a response's implicit reward comes from.

The implicit reward is a sum over tokens, so it can be told apart token by token, in any model:
`r(x, y) = beta * log(pi(y|x) / pi_ref(y|x)) = sum_t beta * log(pi(y_t|..) / pi_ref(y_t|..))`.
"""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dpo_lab.data.end_tokens import Ids
from dpo_lab.data.text_to_ids import PromptResponse
from dpo_lab.models.reference import Reference
from dpo_lab.models.scoring import LogpScorer


@dataclass(frozen=True, eq=False)
class Credit:
    """The implicit reward of one response, token by token.

    Attributes:
        texts: What each token adds to the text, white space included; the end token as it is named.
        policy_logps: `(tokens,)`, `log pi(y_t|x, y_<t)`, nats, float64.
        reference_logps: `(tokens,)`, the same of the reference.
        beta: Of the reward.
        ends: Whether the last token ends the response.
    """

    texts: tuple[str, ...]
    policy_logps: Tensor
    reference_logps: Tensor
    beta: float
    ends: bool

    @property
    def rewards(self) -> Tensor:
        """`beta * (log pi - log pi_ref)` of each token, `(tokens,)`."""
        return self.beta * (self.policy_logps - self.reference_logps)

    @property
    def reward(self) -> float:
        """The response's implicit reward, the sum over its tokens."""
        return self.rewards.sum().item()


@torch.no_grad()
def token_credit(
    policy: LogpScorer,
    reference: Reference,
    sequences: Sequence[PromptResponse],
    beta: float,
    token_budget: int = 4096,
) -> list[Credit]:
    """Implicit rewards of responses, token by token.

    Args:
        policy: Scores with the policy.
        reference: Its reference.
        sequences: `(prompt, response)` ids, as a tokenised pair holds them.
        beta: Of the reward, > 0.
        token_budget: Most tokens in a forward pass.

    Returns:
        One credit a response, in order.

    Raises:
        ValueError: If beta is not above 0.

    Source:
        Rafailov et al. 2023, Eq. 5 without the term of the prompt alone; token by token: Rafailov
        et al. 2024, "From r to Q*: Your Language Model is Secretly a Q-Function" (arXiv
        2404.12358), section 4.
    """
    if not beta > 0:
        raise ValueError(
            f"beta={beta!r}: must be > 0. Take the beta that the run was trained with."
        )
    model = policy.language_model
    credits: list[Credit | None] = [None] * len(sequences)
    for indices, batch in policy.batches(sequences, token_budget):
        after = policy.token_logps(batch).cpu().double()  # not every device has float64
        with reference.active() as scorer:
            before = scorer.token_logps(batch).cpu().double()
        token, owner = batch.token.cpu(), batch.response.cpu()
        for place, index in enumerate(indices):
            own = token[owner == place]
            ids = sequences[index][1]
            ends = ids[-1] in model.encoder.end_ids
            texts = token_texts(model.tokenizer, ids)
            credits[index] = Credit(texts, after[own], before[own], beta, ends)
    return credits


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Ids) -> tuple[str, ...]:
    """What each token adds to the text of those before it; together they are the text.

    A token that holds part of a character shows as the replacement character, and the one that
    completes it shows the character.

    Args:
        tokenizer: The model's tokenizer.
        ids: Ids of a response, with or without its end token.
    """
    texts, before = [], ""
    for count in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:count], clean_up_tokenization_spaces=False)
        texts.append(text[len(os.path.commonprefix([before, text])) :])
        before = text
    return tuple(texts)
