"""Ids of whole pairs, before any check or cut: those that were sampled, or those of the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from dpo_lab.data.preferences import answer_to, response_text
from dpo_lab.data.problems import RowProblem
from dpo_lab.data.rows import Pair, PromptFormat
from dpo_lab.data.sampled import SIDES
from dpo_lab.data.sampled_reader import SampledReader
from dpo_lab.data.templates import CannotEncode
from dpo_lab.data.text_to_ids import AS_IT_IS, AS_MESSAGES, AS_TEXT, Encoder, Ids


@dataclass(frozen=True)
class TokenizedPair:
    """Token ids of one pair.

    The responses include their end token unless they were cut, to fit or when sampled.

    Attributes:
        prompt: Ids of the prompt, with BOS if the tokenizer adds one.
        chosen: Ids of the chosen response.
        rejected: Ids of the rejected response.
        row: Row number in the source.
        notes: What was done to the pair, in words that can be counted.
        rendered: Whether the chat template has written it.
    """

    prompt: Ids
    chosen: Ids
    rejected: Ids
    row: int
    notes: tuple[str, ...] = field(default=(), compare=False)
    rendered: bool = field(default=False, compare=False)

    def __len__(self) -> int:
        """Length of the longer of the two sequences, in tokens."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


Found = tuple[list[TokenizedPair], list[RowProblem]]


def encode_pairs(
    encoder: Encoder,
    pairs: Sequence[Pair],
    prompt_format: PromptFormat = "auto",
    reader: SampledReader | None = None,
) -> Found:
    """Ids of pairs before any check or cut.

    Args:
        encoder: Of the model.
        pairs: The pairs.
        prompt_format: Whether text is put through the chat template, as `Encoder.as_prompt`.
        reader: Counts what becomes of sampled ids.

    Returns:
        The pairs that have ids, in order, and what is wrong with the others.

    Raises:
        ValueError: If there is no chat template for a conversation.
    """
    reader = reader or SampledReader(encoder)
    encoded, problems = [], []
    prompts: dict[str, Ids] = {}
    groups = groupby(pairs, key=lambda pair: bool(pair.chosen_sampled or pair.rejected_sampled))
    for sampled, group in groups:
        some = list(group)
        if sampled:
            parts = [_sampled(encoder, pair, prompt_format, reader, prompts) for pair in some]
        else:
            parts = [_of_text(encoder, some, prompt_format)]
        for found, refused in parts:
            encoded += found
            problems += refused
    return encoded, problems


def _sampled(
    encoder: Encoder,
    pair: Pair,
    prompt_format: PromptFormat,
    reader: SampledReader,
    prompts: dict[str, Ids],
) -> Found:
    """A pair with the ids that its responses were sampled with; `prompts` keeps those known."""
    sampled = {"chosen": pair.chosen_sampled, "rejected": pair.rejected_sampled}
    texts = {"chosen": response_text(pair.chosen), "rejected": response_text(pair.rejected)}
    own = {side: reader.ids(sampled[side], texts[side]) for side in SIDES}
    try:
        shaped, notes = _shaped(encoder, pair, prompt_format)
        if pair.prompt_key not in prompts:
            (prompts[pair.prompt_key],) = encoder.prompts([shaped.prompt])
    except CannotEncode as error:
        return [], [RowProblem(pair.row, "prompt", error.reason, error.detail)]
    prompt = prompts[pair.prompt_key]
    if all(own.values()):  # their text is not read, and nothing that is wrong with it matters
        rendered = not isinstance(shaped.prompt, str)
        return [TokenizedPair(prompt, **own, row=pair.row, notes=notes, rendered=rendered)], []
    found, refused = _of_text(encoder, [pair], prompt_format)
    for place, one in enumerate(found):
        between = prompt[len(one.prompt) :]  # where text has moved the boundary into the prompt
        for side in SIDES:
            read = reader.without_end(sampled[side], getattr(one, side))
            own[side] = between + own[side] if own[side] else read
        found[place] = replace(one, **own)
    return found, refused


def _of_text(encoder: Encoder, pairs: Sequence[Pair], prompt_format: PromptFormat) -> Found:
    """Ids of all pairs at once, which is fast; in halves only to find those that are refused."""
    try:
        shaped = [_shaped(encoder, pair, prompt_format) for pair in pairs]
        responses = [getattr(pair, side) for side in SIDES for pair, _ in shaped]
        encoded = encoder.encode([pair.prompt for pair, _ in shaped] * 2, responses)
    except CannotEncode as error:
        if len(pairs) == 1:
            return [], [RowProblem(pairs[0].row, "prompt", error.reason, error.detail)]
        half = len(pairs) // 2
        first, second = (
            _of_text(encoder, some, prompt_format) for some in (pairs[:half], pairs[half:])
        )
        return first[0] + second[0], first[1] + second[1]
    found = []
    for at, (pair, notes) in enumerate(shaped):
        sides = encoded[at], encoded[at + len(pairs)]
        # Both are scored from the same place: where the first of them leaves the prompt.
        prompt = min((side.prompt for side in sides), key=len)
        ids = [(side.prompt + side.response)[len(prompt) :] for side in sides]
        notes += tuple(dict.fromkeys(sides[0].notes + sides[1].notes))
        rendered = not isinstance(pair.prompt, str)
        found.append(TokenizedPair(prompt, *ids, pair.row, notes, rendered))
    return found, []


def _shaped(
    encoder: Encoder, pair: Pair, prompt_format: PromptFormat
) -> tuple[Pair, tuple[str, ...]]:
    """The pair as the model gets it, text or messages, and what was done for that."""
    prompt = encoder.as_prompt(pair.prompt, prompt_format)
    if isinstance(prompt, str) == isinstance(pair.prompt, str):
        with_turns = prompt_format == "auto" and encoder.chat and isinstance(prompt, str)
        return pair, (AS_IT_IS,) * with_turns
    chosen, rejected = (
        answer_to(prompt, response_text(side)) for side in (pair.chosen, pair.rejected)
    )
    shaped = replace(pair, prompt=prompt, chosen=chosen, rejected=rejected)
    return shaped, (AS_TEXT if isinstance(prompt, str) else AS_MESSAGES,)
