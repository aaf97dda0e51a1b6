"""Which turns of a conversation are scored, and where in its ids each begins and ends."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dpo_lab.data.end_tokens import Ids
from dpo_lab.data.messages import Message
from dpo_lab.data.pairs import ScoreTurns
from dpo_lab.data.templates import CannotEncode, ChatTemplate, TemplateProblem
from dpo_lab.data.token_ids import as_context


@dataclass(frozen=True)
class Written:
    """A prompt with the response to it, as text.

    Attributes:
        text: Both.
        starts: Where in it the model begins to write each turn that is scored.
        limits: Where what somebody else says begins after each, so that the turn has ended before.
        notes: What was done to it, in words that can be counted.
    """

    text: str
    starts: tuple[int, ...]
    limits: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def pieces(self) -> list[str]:
        """The text cut at these places."""
        return [
            self.text[start:end]
            for start, end in zip((0, *self.starts), (*self.starts, None), strict=True)
        ]


def scored_turns(response: Sequence[Message], shared: int, which: ScoreTurns) -> list[int]:
    """Indices of the messages of a response that are scored.

    Args:
        response: The messages.
        shared: How many of the first both responses of a pair have: they say nothing of either.
        which: All that the assistant wrote after those, or its last.
    """
    turns = [at for at, message in enumerate(response) if message["role"] == "assistant"]
    return turns[-1:] if which == "last" else [at for at in turns if at >= shared]


def roles_of(
    template: ChatTemplate, messages: Sequence[Message], text: str
) -> list[tuple[int, str]]:
    """Where in a conversation's text each message ends, with its role.

    What the template writes around a message is the message's. Where the beginning of a
    conversation is written in another way than alone, its messages have one end together.
    """
    found = []
    for count in range(1, len(messages)):
        try:
            begun = template.render(list(messages[:count]), answered=True)
        except CannotEncode:  # some templates refuse what does not end with an answer
            continue
        if text.startswith(begun):
            found.append((len(begun), messages[count - 1]["role"]))
    return [*found, (len(text), messages[-1]["role"])]


def write_turns(
    template: ChatTemplate,
    prompt: list[Message],
    response: list[Message],
    scored: Sequence[int],
) -> Written:
    """The whole conversation by its template, up to the last of the turns that are scored.

    Raises:
        TemplateProblem: As `ChatTemplate.turn` and `ChatTemplate.begins`.
    """
    *earlier, last = scored
    start, text, notes = template.turn(prompt + response[:last], response[last : last + 1])
    starts, limits = [], []
    for turn in earlier:
        try:
            begins, repaired = template.begins(prompt + response[:turn], text)
        except TemplateProblem as error:
            detail = f"{error.detail}; score_turns='last' scores the last turn alone"
            raise TemplateProblem(error.model, error.reason, detail) from None
        starts.append(begins)
        limits.append(
            _next_says(template, prompt + response[: last + 1], len(prompt) + turn + 1, text)
        )
        notes += repaired
    notes = tuple(dict.fromkeys(notes))
    return Written(text, (*starts, len(start)), (*limits, len(text)), notes)


def _next_says(template: ChatTemplate, messages: list[Message], index: int, text: str) -> int:
    """Where in a conversation's text the content of a message begins: with another it differs."""
    changed = [*messages[:index], {**messages[index], "content": _OTHER}, *messages[index + 1 :]]
    return len(os.path.commonprefix([text, template.render(changed, answered=True)]))


_OTHER = "\ue000"
"""Of no alphabet: no message begins with it."""


def scored_ids(
    ids: Ids,
    starts: Sequence[int],
    limits: Sequence[int],
    ends: Collection[int],
    last_turn: Ids,
    model: str,
) -> Ids:
    """A response of several turns: what is scored, and the complements of the ids between.

    Args:
        ids: Of the whole conversation.
        starts: The place of each turn's first token.
        limits: The place before which each turn has ended.
        ends: Tokens that end a turn; the last of them before its limit does.
        last_turn: The ids of the last turn.
        model: The tokenizer's name, for the message.

    Raises:
        CannotEncode: If a turn has no end before the next message.
    """
    parts: list[int] = []
    for start, limit, following in zip(starts, limits, starts[1:], strict=False):
        found = [at for at in range(start, min(limit, following)) if ids[at] in ends]
        if not found:
            raise no_end(model)
        end = found[-1] + 1
        parts += (*ids[start:end], *as_context(ids[end:following]))
    return (*parts, *last_turn)


def no_end(model: str) -> CannotEncode:
    """That a turn does not end with a token that is known to end one."""
    return CannotEncode(
        model,
        "a turn without an end",
        "the chat template writes no end token after it, so where it ends is not known; "
        "score_turns='last' scores the last turn alone",
    )
