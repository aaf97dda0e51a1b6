"""Token credit: which tokens a response's implicit reward comes from.

The implicit reward is a sum over tokens, so it can be split token by token, in any model:
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
from dpo_lab.data.token_ids import plain_ids
from dpo_lab.models.reference import Reference
from dpo_lab.models.scoring import LogpScorer


@dataclass(frozen=True, eq=False)
class Credit:
    """The implicit reward of one response, token by token.

    Attributes:
        texts: The text that each token adds, white space included; the end token by its name.
        policy_logps: `(tokens,)`, `log pi(y_t|x, y_<t)`, nats, float64.
        reference_logps: `(tokens,)`, the same under the reference.
        beta: Beta of the reward.
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
        policy: Scorer of the policy.
        reference: Its reference.
        sequences: `(prompt, response)` token ids, as in a tokenised pair.
        beta: Beta of the reward, > 0.
        token_budget: Maximum tokens in a forward pass.

    Returns:
        One credit per response, in order.

    Raises:
        ValueError: If beta is not above 0.

    Source:
        Rafailov et al. 2023, Eq. 5 without its prompt-only term; token by token: Rafailov
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
        for position, index in enumerate(indices):
            scored = token[owner == position]
            ids = sequences[index][1]
            ends = ids[-1] in model.encoder.end_ids
            texts = token_texts(model.tokenizer, plain_ids(ids))
            texts = tuple(text for text, token in zip(texts, ids, strict=True) if token >= 0)
            credits[index] = Credit(texts, after[scored], before[scored], beta, ends)
    return credits


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Ids) -> tuple[str, ...]:
    """The text that each token adds to the tokens before it; joined, they give the whole text.

    A token that holds part of a character shows as the replacement character; the token that
    completes the character shows it.

    Args:
        tokenizer: The model's tokenizer.
        ids: Token ids of a response, with or without its end token.
    """
    texts, before = [], ""
    for count in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:count], clean_up_tokenization_spaces=False)
        texts.append(text[len(os.path.commonprefix([before, text])) :])
        before = text
    return tuple(texts)
