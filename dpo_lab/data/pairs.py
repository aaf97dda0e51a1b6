"""One preference: a prompt and two responses, of which people preferred one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from dpo_lab.data.messages import Message, message_text
from dpo_lab.data.sampled import Sampled
from dpo_lab.data.tools import TOOLS, tools_apart

Text = str | list[Message]
"""A prompt or a response: plain text, or messages."""
PromptFormat = Literal["auto", "chat", "plain"]
"""How a prompt that is text is given to a model: `Encoder.as_prompt`."""
ScoreTurns = Literal["all", "last"]
"""Which of the assistant's messages after the prompt are scored. What others wrote never is."""
SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Pair:
    """One preference: to `prompt`, people preferred `chosen` over `rejected`.

    Attributes:
        prompt: Text, or the messages before the response; the first keeps any `tools`.
        chosen: Text, or messages of which the assistant wrote the first: one, as a rule, or what it
            wrote with all that tools and the user said in between.
        rejected: The same.
        row: Row number in the source, from 1 (in `.jsonl` files, the line).
        chosen_sampled: How a model sampled chosen, where the row says so (column
            `chosen_sampled`, or so with the name that chosen has): its ids are scored.
        rejected_sampled: The same of rejected.
        score_margin: Score of chosen minus that of rejected, where the row has both; 0 is a tie.
        part: Number of the pair among those of its row, from 0.

    A single response is a pair with one side: people liked it, so that it is chosen and rejected is
    empty, or they did not, and chosen is empty.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    row: int
    chosen_sampled: Sampled | None = None
    rejected_sampled: Sampled | None = None
    score_margin: float | None = None
    part: int = 0

    @property
    def place(self) -> tuple[int, int]:
        """Row and part: the same for no other pair of its source."""
        return self.row, self.part

    @property
    def single(self) -> bool:
        """Whether it has one side only."""
        return not (self.chosen and self.rejected)

    @property
    def sampled(self) -> bool:
        """Whether a model sampled either response."""
        return bool(self.chosen_sampled or self.rejected_sampled)

    @property
    def prompt_key(self) -> str:
        """The prompt as one string: equal for equal prompts."""
        return self.prompt if isinstance(self.prompt, str) else json.dumps(self.prompt)

    def swapped(self) -> Pair:
        """The pair with its label turned around."""
        return replace(
            self,
            chosen=self.rejected,
            rejected=self.chosen,
            chosen_sampled=self.rejected_sampled,
            rejected_sampled=self.chosen_sampled,
            score_margin=None if self.score_margin is None else -self.score_margin,
        )


def shared_messages(first: Sequence[Message], second: Sequence[Message]) -> int:
    """How many messages two conversations begin with alike."""
    return next(
        (at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )


def same_prompt(prompt: Text) -> str:
    """A key that two prompts share if a person would call them the same.

    White space makes no difference, nor does the order of a message's fields; and one message of
    the user is its text. Roles, calls of tools and earlier messages do.
    """
    if isinstance(prompt, str):
        return " ".join(prompt.split())
    turns = [(message["role"], " ".join(message_text(message).split())) for message in prompt]
    return turns[0][1] if [role for role, _ in turns] == ["user"] else json.dumps(turns)


def prompt_text(prompt: Text) -> str:
    """A prompt as a person would read it: the text, or the last message's."""
    return prompt if isinstance(prompt, str) else message_text(prompt[-1])


def response_text(response: Text) -> str:
    """A response as a person would read it; of several messages, each with its role."""
    if isinstance(response, str):
        return response
    if len(response) == 1:
        return message_text(response[0])
    return "\n".join(f"[{message['role']}] {message_text(message)}" for message in response)


def answer_to(prompt: Text, text: str) -> Text:
    """A response's text in the shape of its prompt: the text, or a list of one message."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def pair_row(
    prompt: Text,
    chosen: str,
    rejected: str,
    chosen_sampled: Sampled | None = None,
    rejected_sampled: Sampled | None = None,
) -> dict[str, Any]:
    """A pair as a row of JSON: what TRL reads, and the ids of responses that a model sampled."""
    asked, tools = tools_apart(prompt)
    row = {
        "prompt": asked,
        "chosen": answer_to(prompt, chosen),
        "rejected": answer_to(prompt, rejected),
    }
    sampled = {"chosen_sampled": chosen_sampled, "rejected_sampled": rejected_sampled}
    row |= {TOOLS: tools} if tools else {}
    return row | {column: one.as_dict() for column, one in sampled.items() if one}
