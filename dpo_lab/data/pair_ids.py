"""Ids of whole pairs, before any check or cut: those that were sampled, or those of the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from dpo_lab.data.end_tokens import Ids
from dpo_lab.data.pairs import (
    SIDES,
    Pair,
    PromptFormat,
    ScoreTurns,
    Text,
    answer_to,
    response_text,
    shared_messages,
)
from dpo_lab.data.problems import RowProblem
from dpo_lab.data.sampled_reader import SampledReader
from dpo_lab.data.templates import CannotEncode, TemplateProblem
from dpo_lab.data.text_to_ids import AS_IT_IS, AS_MESSAGES, AS_TEXT, Encoded, Encoder
from dpo_lab.data.token_ids import as_context, common_prefix
from dpo_lab.data.turns import scored_turns

# What a pair of conversations is, in words that are counted and shown.
PARTED = "whose conversations part at a message that the assistant did not write"
TRAILING = "with messages after the last answer left out"


@dataclass(frozen=True)
class TokenizedPair:
    """Token ids of one pair.

    The responses include their end token unless they were cut, to fit or when sampled. What in
    them is context, read and not scored, stands as complements of its ids (`data.token_ids`).

    Attributes:
        prompt: Ids of the prompt, with BOS if the tokenizer adds one.
        chosen: Ids of the chosen response.
        rejected: Ids of the rejected response.
        row: Row number in the source.
        notes: What was done to the pair, in words that can be counted.
        rendered: Whether the chat template has written it.
        score_margin: Score of chosen minus that of rejected, if known.
        part: Number of the pair among those of its row.
        single: Whether it is a single response, whose other side is empty.
    """

    prompt: Ids
    chosen: Ids
    rejected: Ids
    row: int
    notes: tuple[str, ...] = field(default=(), compare=False)
    rendered: bool = field(default=False, compare=False)
    score_margin: float | None = None
    part: int = field(default=0, compare=False)
    single: bool = False

    @property
    def place(self) -> tuple[int, int]:
        """As `Pair.place`."""
        return self.row, self.part

    def __len__(self) -> int:
        """Length of the longer of the two sequences, in tokens."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


def encode_pairs(
    encoder: Encoder,
    pairs: Sequence[Pair],
    prompt_format: PromptFormat = "auto",
    reader: SampledReader | None = None,
    score_turns: ScoreTurns = "all",
) -> tuple[list[TokenizedPair], list[RowProblem]]:
    """Ids of pairs before any check or cut.

    Args:
        encoder: Of the model.
        pairs: The pairs.
        prompt_format: Whether text is put through the chat template, as `Encoder.as_prompt`.
        reader: Counts what becomes of sampled ids.
        score_turns: Which of the assistant's messages after the prompt are scored.

    Returns:
        The pairs that have ids, in order, and what is wrong with the others.

    Raises:
        ValueError: If there is no chat template for a conversation.
    """
    reader = reader or SampledReader(encoder)
    work = _PairEncoder(encoder, prompt_format, reader, score_turns)
    for sampled, group in groupby(pairs, key=lambda pair: pair.sampled):
        if not sampled:
            work.add_of_text(list(group))
            continue
        for pair in group:
            work.add_sampled(pair)
    return work.encoded, work.problems


@dataclass
class _PairEncoder:
    """Pairs with ids so far, and what is wrong with the others."""

    encoder: Encoder
    prompt_format: PromptFormat
    reader: SampledReader
    score_turns: ScoreTurns = "all"
    encoded: list[TokenizedPair] = field(default_factory=list)
    problems: list[RowProblem] = field(default_factory=list)
    prompts: dict[str, Ids] = field(default_factory=dict)

    def add_of_text(self, pairs: Sequence[Pair]) -> None:
        """Encode all pairs at once, which is fast; in halves only to find those refused."""
        try:
            self.encoded += self._of_text(pairs)
        except CannotEncode as error:
            if len(pairs) == 1:
                self._refuse(pairs[0], error)
                return
            half = len(pairs) // 2
            self.add_of_text(pairs[:half])
            self.add_of_text(pairs[half:])

    def add_sampled(self, pair: Pair) -> None:
        """Take the ids that its responses were sampled with, where they are to be scored."""
        sampled = {side: getattr(pair, f"{side}_sampled") for side in SIDES}
        own = {
            side: self.reader.ids(sampled[side], self._text(getattr(pair, side))) for side in SIDES
        }
        try:
            shaped, notes = self._shaped(pair)
            prompt = self._prompt(shaped, pair.prompt_key)
            if all(own.values()):  # the text is not read, and what is wrong with it does not matter
                rendered = not isinstance(shaped.prompt, str)
                facts = dict(notes=notes, rendered=rendered, **_facts(pair))
                self.encoded.append(TokenizedPair(prompt, **own, **facts))
                return
            (one,) = self._of_text([pair])
        except CannotEncode as error:
            self._refuse(pair, error)
            return
        between = prompt[len(one.prompt) :]  # where text has moved the boundary into the prompt
        for side in SIDES:
            read = self.reader.without_end(sampled[side], getattr(one, side))
            own[side] = between + own[side] if own[side] else read
        self.encoded.append(replace(one, **own))

    def _text(self, response: Text) -> str:
        """A response as it is trained on: without thinking that is not kept."""
        if isinstance(response, str):
            return response
        return response_text([self.encoder.template.given(message) for message in response])

    def _refuse(self, pair: Pair, error: CannotEncode) -> None:
        self.problems.append(RowProblem(pair.row, "prompt", error.reason, error.detail))

    def _prompt(self, shaped: Pair, key: str) -> Ids:
        if key not in self.prompts:
            (self.prompts[key],) = self.encoder.prompts([shaped.prompt])
        return self.prompts[key]

    def _of_text(self, pairs: Sequence[Pair]) -> list[TokenizedPair]:
        shaped = [self._shaped(pair) for pair in pairs]
        responses = [getattr(pair, side) for side in SIDES for pair, _ in shaped]
        scored = [self._scored(pair, side) for side in SIDES for pair, _ in shaped]
        encoded = self.encoder.encode([pair.prompt for pair, _ in shaped] * 2, responses, scored)
        found = []
        for at, (pair, notes) in enumerate(shaped):
            sides = encoded[at], encoded[at + len(pairs)]
            prompt, *ids = _from_one_place(sides, conversation=_several_messages(pair))
            notes += tuple(dict.fromkeys(sides[0].notes + sides[1].notes))
            rendered = not isinstance(pair.prompt, str)
            facts = dict(notes=notes, rendered=rendered, **_facts(pair))
            found.append(TokenizedPair(prompt, *ids, **facts))
        return found

    def _scored(self, pair: Pair, side: str) -> list[int]:
        """Which messages of a response are scored; none where it is text."""
        response = getattr(pair, side)
        if isinstance(response, str):
            return []
        return scored_turns(response, _shared(pair), self.score_turns)

    def _shaped(self, pair: Pair) -> tuple[Pair, tuple[str, ...]]:
        """The pair as the model gets it, text or messages, and what was done for that."""
        prompt = self.encoder.as_prompt(pair.prompt, self.prompt_format)
        is_text = isinstance(prompt, str)
        if is_text == isinstance(pair.prompt, str):
            with_turns = self.prompt_format == "auto" and self.encoder.chat and is_text
            return pair, (AS_IT_IS,) * with_turns + _what_parts(pair)
        if _several_messages(pair):
            name, roles = self.encoder.tokenizer.name_or_path, "a response of several messages"
            raise TemplateProblem(name, "no plain form", roles)
        sides = {side: answer_to(prompt, response_text(getattr(pair, side))) for side in SIDES}
        return replace(pair, prompt=prompt, **sides), (AS_TEXT if is_text else AS_MESSAGES,)


def _several_messages(pair: Pair) -> bool:
    return any(not isinstance(side, str) and len(side) > 1 for side in (pair.chosen, pair.rejected))


def _shared(pair: Pair) -> int:
    """How many messages its responses begin with alike; none if it is one response twice."""
    return 0 if pair.chosen == pair.rejected else shared_messages(pair.chosen, pair.rejected)


def _what_parts(pair: Pair) -> tuple[str, ...]:
    """What is particular to a pair of conversations."""
    if not _several_messages(pair):
        return ()
    sides = pair.chosen, pair.rejected
    parted = any(side[_shared(pair)]["role"] != "assistant" for side in sides)
    trailing = any(side[-1]["role"] != "assistant" for side in sides)
    return (PARTED,) * parted + (TRAILING,) * trailing


def _from_one_place(sides: Sequence[Encoded], conversation: bool) -> tuple[Ids, Ids, Ids]:
    """The prompt that both have, and each response from its end on.

    The prompt's last tokens on one side, where a token of the other spans the boundary, are scored
    like that one. Where the conversations part before the first turn that is scored, what lies
    between is context.
    """
    prompts = [side.prompt for side in sides]
    prompt = min(prompts, key=len)
    if conversation:
        prompt = prompt[: common_prefix(*prompts)]
    between = [ids[len(prompt) :] for ids in prompts]
    if conversation:
        between = list(map(as_context, between))
    chosen, rejected = (ids + side.response for ids, side in zip(between, sides, strict=True))
    return prompt, chosen, rejected


def _facts(pair: Pair) -> dict[str, Any]:
    """What the ids of a pair keep of it."""
    return {"row": pair.row, "part": pair.part, "score_margin": pair.score_margin}
