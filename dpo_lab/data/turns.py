"""Which turns of a conversation are scored, and where in its ids each begins and ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from dpo_lab.data.end_tokens import Ids
from dpo_lab.data.messages import Message
from dpo_lab.data.templates import CannotEncode, ChatTemplate, TemplateProblem
from dpo_lab.data.token_ids import as_context

ScoreTurns = Literal["all", "last"]
"""Which of the assistant's messages after the prompt are scored. What others wrote never is."""


@dataclass(frozen=True)
class Written:
    """A prompt with the response to it, as text.

    Attributes:
        text: Both.
        starts: Where in it the model begins to write each turn that is scored.
        notes: What was done to it, in words that can be counted.
    """

    text: str
    starts: tuple[int, ...]
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
    found = []
    for turn in earlier:
        try:
            begins, repaired = template.begins(prompt + response[:turn], text)
        except TemplateProblem as error:
            detail = f"{error.detail}; score_turns='last' scores the last turn alone"
            raise TemplateProblem(error.model, error.reason, detail) from None
        found.append(begins)
        notes += repaired
    return Written(text, (*found, len(start)), tuple(dict.fromkeys(notes)))


def scored_ids(
    ids: Ids, starts: Sequence[int], ends: Collection[int], last_turn: Ids, model: str
) -> Ids:
    """A response of several turns: what is scored, and the complements of the ids between.

    Args:
        ids: Of the whole conversation.
        starts: The place of each turn's first token.
        ends: Tokens that end a turn; the first of them does.
        last_turn: The ids of the last turn.
        model: The tokenizer's name, for the message.

    Raises:
        CannotEncode: If a turn has no end before the next one begins.
    """
    parts: list[int] = []
    for start, following in zip(starts, starts[1:], strict=False):
        end = next((at for at in range(start, following) if ids[at] in ends), None)
        if end is None:
            raise CannotEncode(
                model,
                "a turn without an end",
                "the chat template writes no end token after it, so where it ends within the "
                "conversation is not known; score_turns='last' scores the last alone",
            )
        parts += (*ids[start : end + 1], *as_context(ids[end + 1 : following]))
    return (*parts, *last_turn)
