"""Enumeration of every response of a small policy with its exact probability."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from dpo_lab.data.end_tokens import Ids
from dpo_lab.models.dropout import evaluating
from dpo_lab.models.loading import LanguageModel

MAX_RESPONSES = 1 << 20
_MOST_CACHED = 1 << 13
"""Most prefixes whose keys and values are held at once."""


@dataclass(frozen=True)
class Enumeration:
    """The distribution of a policy over all its responses to one prompt, on the CPU.

    Response i is `words[i]` (padded with -1) followed by the end token.

    Attributes:
        words: `(responses, max_words)`, ids of the words; -1 after the last.
        logps: `(responses,)`, `log pi(y|x)`, nats, float64, end token included.
    """

    words: Tensor
    logps: Tensor

    def text(self, language_model: LanguageModel, index: int) -> str:
        """The response as text."""
        ids = [token for token in self.words[index].tolist() if token >= 0]
        return language_model.tokenizer.decode(ids)

    def texts(self, language_model: LanguageModel) -> list[str]:
        """All responses as text."""
        counts = (self.words >= 0).sum(dim=-1).tolist()
        rows = zip(self.words.tolist(), counts, strict=True)
        return language_model.tokenizer.batch_decode([row[:count] for row, count in rows])


def enumerable(language_model: LanguageModel, max_words: int = 3) -> bool:
    """Whether a model's responses of up to `max_words` words are few enough to list."""
    vocabulary = language_model.base.config.get_text_config().vocab_size
    one_end = len(language_model.encoder.end_ids) == 1
    return one_end and vocabulary**max_words <= MAX_RESPONSES


def enumerate_responses(
    language_model: LanguageModel,
    prompt: Ids,
    *,
    max_words: int = 3,
    then_ends: bool = False,
    keep_cache: bool = False,
    chunk: int = 1024,
    gradient: bool = False,
) -> Enumeration:
    """Every response of at most `max_words` tokens, ended by the end token.

    The probabilities sum to one exactly when the policy never says more than `max_words` words,
    as `micro` does.

    Args:
        language_model: A policy with a small vocabulary and one end token.
        prompt: Ids of the prompt.
        max_words: Most tokens before the end token.
        then_ends: Assume that a response ends after `max_words`, as `micro`'s do to within 1e-6:
            far fewer forward passes, and probabilities that sum to one exactly.
        keep_cache: Reuse a prefix's keys and values when it grows by a word: a third of the work;
            log-probabilities differ by rounding.
        chunk: Prefixes per forward pass.
        gradient: Whether the log-probabilities have a gradient, which holds all passes in memory;
            not with `keep_cache`.

    Returns:
        `n^0 + ... + n^max_words` responses, with n the vocabulary size without the end token.

    Raises:
        ValueError: If there are too many responses, or several end tokens.
    """
    end, *other_ends = language_model.encoder.end_ids
    vocabulary = language_model.base.config.get_text_config().vocab_size
    if not enumerable(language_model, max_words):
        raise ValueError(
            f"{language_model.name}: {vocabulary} tokens, {1 + len(other_ends)} of which end a "
            f"response, and max_words={max_words}: its responses cannot all be enumerated. "
            "Use a model like 'micro', or sample."
        )
    with torch.set_grad_enabled(gradient):
        past = _Past(language_model, prompt, keep_cache and not gradient)
        return _enumerated(past, vocabulary, end, max_words, then_ends, chunk)


def _enumerated(
    past: _Past, vocabulary: int, end: int, max_words: int, then_ends: bool, chunk: int
) -> Enumeration:
    others = torch.tensor([token for token in range(vocabulary) if token != end])
    prefixes = torch.zeros(1, 0, dtype=torch.long)
    weight = torch.zeros(1, dtype=torch.float64)
    all_words, all_logps = [], []
    for length in range(max_words + 1):
        if then_ends and length == max_words:
            all_words.append(prefixes)
            all_logps.append(weight)
            break
        log_probs = past.next_token_logps(prefixes, chunk)
        all_words.append(torch.nn.functional.pad(prefixes, (0, max_words - length), value=-1))
        all_logps.append(weight + log_probs[:, end])
        if length < max_words:
            weight = (weight[:, None] + log_probs[:, others]).flatten()
            prefixes = torch.cat(
                [
                    prefixes.repeat_interleave(len(others), dim=0),
                    others.repeat(len(prefixes))[:, None],
                ],
                dim=1,
            )
    return Enumeration(torch.cat(all_words), torch.cat(all_logps))


class _Past:
    """Key-value cache of all prefixes of one length, reused for prefixes one word longer.

    If the cache cannot be repeated for each next word, whole prefixes are computed instead.
    """

    def __init__(self, language_model: LanguageModel, prompt: Ids, kept: bool):
        self._language_model, self._prompt, self._kept = language_model, prompt, kept
        self._cache: DynamicCache | None = None
        self._prefixes = 0

    def next_token_logps(self, prefixes: Tensor, chunk: int) -> Tensor:
        """Like the function of this name; each call's prefixes extend the last call's by a word."""
        model, length = self._language_model.model, len(self._prompt) + prefixes.shape[1]
        first, few = not prefixes.shape[1], len(prefixes) <= _MOST_CACHED
        if not (self._kept and few and (first or self._cache)):
            self._cache = None
            return _next_token_logps(self._language_model, self._prompt, prefixes, chunk)
        ids = torch.tensor([self._prompt]) if first else prefixes[:, -1:]
        ids = ids.to(self._language_model.device)
        if not first:
            self._cache.batch_repeat_interleave(len(prefixes) // self._prefixes)
        with evaluating(model):
            output = model(
                input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1
            )
        cache = output.past_key_values
        whole = type(cache) is DynamicCache and cache.get_seq_length() == length
        self._cache, self._prefixes = cache if whole else None, len(prefixes)
        return _log_probs(output.logits)


@torch.no_grad()
def next_token_logps(
    language_model: LanguageModel, prompt: Ids, prefixes: Tensor, chunk: int = 1024
) -> Tensor:
    """Float64 log-probabilities of the token after each prefix, `(prefixes, vocabulary)`, nats.

    Args:
        language_model: The policy.
        prompt: Ids of the prompt.
        prefixes: `(prefixes, words)`, ids of each response so far; on the CPU, like the result.
        chunk: Prefixes per forward pass.
    """
    return _next_token_logps(language_model, prompt, prefixes, chunk)


def _next_token_logps(
    language_model: LanguageModel, prompt: Ids, prefixes: Tensor, chunk: int
) -> Tensor:
    start = torch.tensor(prompt)
    rows = []
    for part in prefixes.split(chunk):
        ids = torch.cat([start.expand(len(part), -1), part], dim=1).to(language_model.device)
        logits = language_model.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
        rows.append(_log_probs(logits))
    return torch.cat(rows)


def _log_probs(logits: Tensor) -> Tensor:
    """Float64 log-probabilities at the last position, on the CPU: not every device has float64."""
    return logits[:, -1].cpu().double().log_softmax(-1)
