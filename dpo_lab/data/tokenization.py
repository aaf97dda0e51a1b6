"""Text to token ids: prompt and response apart, one end token, cuts that keep what matters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from dpo_lab.data.preferences import BadRows, OnBadRows, Pair, Preferences, Text
from dpo_lab.data.sources import RowProblem

Ids = tuple[int, ...]


@dataclass(frozen=True)
class TokenizedPair:
    """Token ids of one pair; the responses include their end token unless they were cut.

    Attributes:
        prompt: Ids of the prompt, with BOS if the tokenizer adds one.
        chosen: Ids of the chosen response.
        rejected: Ids of the rejected response.
        row: Row number in the source.
    """

    prompt: Ids
    chosen: Ids
    rejected: Ids
    row: int

    def __len__(self) -> int:
        """Length of the longer of the two sequences, in tokens."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class TokenizedPairs(Sequence[TokenizedPair]):
    """Token ids of a data set, with what was cut or dropped on the way.

    Attributes:
        pairs: The pairs that fit.
        truncated_prompts: Pairs whose prompt lost its beginning.
        truncated_responses: Pairs of which a response lost its end, and so its end token.
        dropped: Pairs left out, by reason.
    """

    pairs: tuple[TokenizedPair, ...]
    truncated_prompts: int = 0
    truncated_responses: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index):
        """The pair at an index."""
        return self.pairs[index]

    def sequences(self) -> list[tuple[Ids, Ids]]:
        """`(prompt, response)` of all chosen responses, then of all rejected ones."""
        chosen = [(pair.prompt, pair.chosen) for pair in self.pairs]
        return chosen + [(pair.prompt, pair.rejected) for pair in self.pairs]

    def __str__(self) -> str:
        parts = [f"{len(self)} pairs tokenised"]
        parts += [f"{self.truncated_prompts} prompts truncated"] * bool(self.truncated_prompts)
        parts += [f"{self.truncated_responses} with a response truncated"] * bool(
            self.truncated_responses
        )
        parts += [f"{count} dropped ({reason})" for reason, count in self.dropped.items()]
        return ", ".join(parts)


class Encoder:
    """Turns prompts and responses into ids for one tokenizer.

    Prompt and response are tokenised apart and their ids joined, so that no token spans the
    boundary and the mask is exact. A plain response ends with the tokenizer's `eos_token`; in a
    conversation, the chat template writes the end of turn. Either is one token, and is scored.

    Args:
        tokenizer: A Hugging Face tokenizer.

    Raises:
        ValueError: If it has no end token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"tokenizer of {tokenizer.name_or_path!r}: has no eos_token, so no response could "
                "end. Set tokenizer.eos_token."
            )
        self.tokenizer = tokenizer
        self.pad_id = (
            tokenizer.eos_token_id if tokenizer.pad_token_id is None else (tokenizer.pad_token_id)
        )

    @property
    def chat(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(self.tokenizer.chat_template)

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end a response: `eos_token`, and the chat template's end of turn."""
        ends = [self.tokenizer.eos_token_id]
        if self.chat:
            prompt = [{"role": "user", "content": "a"}]
            ends.append(self.responses([prompt], [[{"role": "assistant", "content": "a"}]])[0][-1])
        return tuple(dict.fromkeys(ends))

    def as_prompt(self, text: str) -> Text:
        """A user's text as this model expects a prompt: a message if it has a chat template."""
        return [{"role": "user", "content": text}] if self.chat else text

    def prompts(self, prompts: Sequence[Text]) -> list[Ids]:
        """Ids of prompts, up to where the response begins.

        Args:
            prompts: Texts, or lists of messages.

        Returns:
            One tuple a prompt, with BOS in front if the tokenizer adds one to text.
        """
        texts = [prompt if isinstance(prompt, str) else self._render(prompt) for prompt in prompts]
        return [
            ids
            if not isinstance(prompt, str) or ids[: len(self._bos)] == self._bos
            else self._bos + ids
            for prompt, ids in zip(prompts, self._ids(texts), strict=True)
        ]

    def responses(self, prompts: Sequence[Text], responses: Sequence[Text]) -> list[Ids]:
        """Ids of responses to prompts, ending with exactly one end token.

        Args:
            prompts: Texts, or lists of messages.
            responses: Texts, or lists of one assistant message, in the same order.

        Returns:
            One tuple a response.
        """
        texts = [
            response if isinstance(response, str) else self._turn(prompt, response)
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        return [
            self._end_text(ids) if isinstance(response, str) else self._end_turn(ids)
            for response, ids in zip(responses, self._ids(texts), strict=True)
        ]

    @cached_property
    def _bos(self) -> Ids:
        plain = self._ids(["a"])[0]
        ids = tuple(self.tokenizer("a").input_ids)
        bos = self.tokenizer.bos_token_id
        return (bos,) if bos is not None and ids[:1] == (bos,) and plain[:1] != (bos,) else ()

    def _ids(self, texts: list[str]) -> list[Ids]:
        if not texts:
            return []
        ids = self.tokenizer(texts, add_special_tokens=False).input_ids
        return [tuple(row) for row in ids]

    def _end_text(self, ids: Ids) -> Ids:
        end = self.tokenizer.eos_token_id
        while ids[-1:] == (end,):
            ids = ids[:-1]
        return ids + (end,)

    def _end_turn(self, ids: Ids) -> Ids:
        """Cut what a template writes after the end of turn (often a newline)."""
        special = set(self.tokenizer.all_special_ids)
        last = max((at for at, token in enumerate(ids) if token in special), default=None)
        return self._end_text(ids) if last is None else ids[: last + 1]

    def _render(self, messages: list, answered: bool = False) -> str:
        if not self.chat:
            raise ValueError(
                f"tokenizer of {self.tokenizer.name_or_path!r}: has no chat template, and the data "
                "is conversational. Use plain-text rows, or a model with a chat template."
            )
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=not answered
        )

    def _turn(self, prompt: list, response: list) -> str:
        """What the template writes for the answer, after the prompt as it stands in generation."""
        start, whole = self._render(prompt), self._render(prompt + response, answered=True)
        if not whole.startswith(start):
            raise ValueError(
                f"chat template of {self.tokenizer.name_or_path!r}: an answered conversation does "
                "not begin with its prompt, so the response cannot be told apart. "
                "Use a template that keeps the prompt as it is."
            )
        return whole[len(start) :]


def tokenize_pairs(
    preferences: Preferences,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int = 512,
    max_prompt_length: int | None = None,
    on_bad_rows: OnBadRows = "raise",
    max_problems: int = 10,
) -> TokenizedPairs:
    """Token ids of every pair.

    A pair that is too long loses the beginning of its prompt first (the end holds the question),
    down to half of `max_length`; then the end of a response, with its end token, since a response
    that was cut has not ended. Both are counted.

    Args:
        preferences: The pairs.
        tokenizer: The model's tokenizer.
        max_length: Most tokens of prompt and response together.
        max_prompt_length: Most tokens of a prompt; by default, what the longer response leaves
            free, but half of `max_length` at the least.
        on_bad_rows: What to do with pairs that cannot be used (a response with nothing left after
            the cut, responses that became equal, an end token inside a response): `raise` or `skip`.
        max_problems: How many such pairs are named.

    Returns:
        The pairs that can be used.

    Raises:
        BadRows: With `on_bad_rows="raise"`, if a pair cannot be used.
        ValueError: If `max_length` leaves no room, or no pair is left.
    """
    if max_length < 2:
        raise ValueError(
            f"max_length={max_length}: must be at least 2, one token of prompt and one of response."
        )
    encoder = Encoder(tokenizer)
    prompts = encoder.prompts([pair.prompt for pair in preferences])
    sides = [
        encoder.responses(
            [pair.prompt for pair in preferences], [side(pair) for pair in preferences]
        )
        for side in (lambda pair: pair.chosen, lambda pair: pair.rejected)
    ]
    kept, problems, cut = [], [], Counter()
    for pair, prompt, chosen, rejected in zip(preferences, prompts, *sides, strict=True):
        try:
            _check_ids(pair, prompt, chosen, rejected, encoder.end_ids)
            longest = max(len(chosen), len(rejected))
            budget = max_prompt_length or max(max_length - longest, max_length // 2)
            short = _cut_prompt(prompt, budget, encoder.tokenizer.bos_token_id)
            room = max(0, max_length - len(short))
            done = TokenizedPair(short, chosen[:room], rejected[:room], pair.row)
            _check_cut(done)
        except RowProblem as problem:
            problems.append(problem)
            continue
        cut["prompts"] += len(short) < len(prompt)
        cut["responses"] += longest > room
        kept.append(done)
    source = preferences.report.source
    if problems and on_bad_rows == "raise":
        raise BadRows(source, len(preferences), len(problems), problems[:max_problems])
    if not kept:
        raise ValueError(
            f"{source}: no pair is left after tokenising with max_length={max_length} "
            f"({problems[0] if problems else 'there was none'}). Raise max_length."
        )
    dropped = Counter(problem.reason for problem in problems)
    return TokenizedPairs(tuple(kept), cut["prompts"], cut["responses"], dict(dropped))


def _cut_prompt(prompt: Ids, budget: int, bos: int | None) -> Ids:
    """The last `budget` tokens, BOS kept in front."""
    if len(prompt) <= budget:
        return prompt
    if prompt[0] == bos and budget > 1:
        return prompt[:1] + prompt[len(prompt) - budget + 1 :]
    return prompt[len(prompt) - budget :]


def _check_ids(pair: Pair, prompt: Ids, chosen: Ids, rejected: Ids, ends: Ids) -> None:
    if not prompt:
        raise RowProblem(pair.row, "prompt", "no token in the prompt")
    for side, ids in (("chosen", chosen), ("rejected", rejected)):
        if len(ids) < 2:
            raise RowProblem(pair.row, side, "no token in the response")
        if any(token in ends for token in ids[:-1]):
            raise RowProblem(pair.row, side, "an end token inside the response")
    if chosen == rejected:
        raise RowProblem(pair.row, "rejected", "same tokens as chosen")


def _check_cut(pair: TokenizedPair) -> None:
    if not pair.chosen or not pair.rejected:
        raise RowProblem(pair.row, None, "response empty after truncation")
    if pair.chosen == pair.rejected:
        raise RowProblem(pair.row, None, "responses equal after truncation")
