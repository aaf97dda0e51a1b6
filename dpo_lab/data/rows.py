"""One row to one pair: the three accepted shapes, and what makes a row unusable."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dpo_lab.data.problems import RowProblem
from dpo_lab.data.sampled import SIDES, Sampled, sampled_of_row

Message = dict[str, str]
Text = str | list[Message]

COLUMNS = ("prompt", "chosen", "rejected")
TURN = "\n\nAssistant:"
"""Start of an answer in Anthropic's HH data: a shared prefix is cut after the last of these."""

# Which roles may follow a role.
_NEXT_ROLES = {
    "beginning": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
ROLES = tuple(_NEXT_ROLES)[1:]


@dataclass(frozen=True)
class Pair:
    """One preference: to `prompt`, people preferred `chosen` over `rejected`.

    Attributes:
        prompt: Text, or the messages before the answer.
        chosen: Text, or one assistant message in a list.
        rejected: The same.
        row: Row number in the source, from 1 (in `.jsonl` files, the line).
        chosen_sampled: How a model sampled chosen, where the row says so (column
            `chosen_sampled`): its ids are scored, rather than its text.
        rejected_sampled: The same of rejected.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    row: int
    chosen_sampled: Sampled | None = None
    rejected_sampled: Sampled | None = None

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
        )


def row_to_pair(number: int, row: Any, columns: Mapping[str, str]) -> Pair:
    """One row in the lab's shape.

    Args:
        number: Its row number.
        row: The row, or the problem met in reading it; a cell may be such a problem, too.
        columns: Names of the three columns in the row.

    Raises:
        RowProblem: If it cannot be used.
    """
    if isinstance(row, RowProblem):
        raise row.at(number)
    if not isinstance(row, Mapping):
        raise RowProblem(
            number, None, "wrong type", f"{type(row).__name__}, not an object with columns"
        )
    chosen = _field(number, row, columns["chosen"])
    rejected = _field(number, row, columns["rejected"])
    if type(chosen) is not type(rejected):
        raise RowProblem(
            number,
            columns["rejected"],
            "wrong type",
            f"{_kind(rejected)}, but chosen is {_kind(chosen)}",
        )
    prompt = None
    # A column that was named by the caller must be there; else the prompt may be implicit.
    if columns["prompt"] in row or columns["prompt"] != "prompt":
        prompt = _field(number, row, columns["prompt"])
    if chosen == rejected:
        raise RowProblem(number, columns["rejected"], "equal to chosen")
    shape = _text_pair if isinstance(chosen, str) else _conversation_pair
    sampled = [sampled_of_row(number, row, side) for side in SIDES]
    return Pair(*shape(number, prompt, chosen, rejected, columns), number, *sampled)


def _text_pair(
    number: int, prompt: Text | None, chosen: str, rejected: str, columns: Mapping[str, str]
) -> tuple[str, str, str]:
    if prompt is None:
        shared = os.path.commonprefix([chosen, rejected])
        at = shared.rfind(TURN)
        end = at + len(TURN) if at >= 0 else _word_boundary(shared)
        prompt, chosen, rejected = chosen[:end], chosen[end:], rejected[end:]
        if not prompt.strip():
            raise _no_shared_prompt(number, columns)
    if not isinstance(prompt, str):
        raise RowProblem(
            number, columns["prompt"], "wrong type", "messages, but chosen and rejected are text"
        )
    for side, response in (("chosen", chosen), ("rejected", rejected)):
        if not response.strip():
            raise RowProblem(number, columns[side], "empty response")
    return prompt, chosen, rejected


def _word_boundary(shared: str) -> int:
    """End of the last whole word of a shared prefix, so that no response begins inside a word."""
    while shared and not shared[-1].isspace():
        shared = shared[:-1]
    return len(shared.rstrip())


def _conversation_pair(
    number: int,
    prompt: Text | None,
    chosen: list[Message],
    rejected: list[Message],
    columns: Mapping[str, str],
) -> tuple[list[Message], list[Message], list[Message]]:
    if not isinstance(prompt, list):
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        if shared:
            prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        elif prompt is not None:
            prompt = [{"role": "user", "content": prompt}]
        else:
            raise _no_shared_prompt(number, columns)
    _check_roles(number, columns["prompt"], prompt)
    for side, response in (("chosen", chosen), ("rejected", rejected)):
        roles = [message["role"] for message in response]
        if roles != ["assistant"]:
            raise RowProblem(
                number,
                columns[side],
                "roles out of order",
                f"{' '.join(roles) or 'no message'} after the prompt, not one assistant message",
            )
    return prompt, chosen, rejected


def _no_shared_prompt(number: int, columns: Mapping[str, str]) -> RowProblem:
    return RowProblem(number, columns["prompt"], "missing, and chosen and rejected share no prompt")


def _check_roles(number: int, column: str, prompt: list[Message]) -> None:
    roles = [message["role"] for message in prompt]
    steps = zip(["beginning", *roles], roles, strict=False)
    if roles[-1] not in ("user", "tool") or any(b not in _NEXT_ROLES[a] for a, b in steps):
        raise RowProblem(
            number,
            column,
            "roles out of order",
            f"{' '.join(roles)}; after any system message, user and assistant take turns, "
            "and a prompt ends with the user",
        )


def _messages(number: int, column: str, value: Sequence) -> list[Message]:
    if not value:
        raise RowProblem(number, column, "empty", "a list of no messages")
    for message in value:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise RowProblem(
                number, column, "wrong type", "a message is no object with role and content"
            )
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise RowProblem(number, column, "unknown role", repr(role))
        if message.get("tool_calls"):
            raise RowProblem(number, column, "tool calls are not supported")
        if not isinstance(content, str):
            raise RowProblem(
                number,
                column,
                "wrong type",
                f"content of the {role} is {type(content).__name__}, not text",
            )
        _check_text(number, column, content)
        if role in ("user", "assistant") and not content.strip():
            raise RowProblem(number, column, "empty", f"message of the {role}")
    return [{"role": m["role"], "content": m["content"]} for m in value]


def _field(number: int, row: Mapping, column: str) -> Text:
    """A column's value: text that can be encoded, or a list of messages."""
    if column not in row:
        names = ", ".join(map(str, row)) or "no column"
        raise RowProblem(number, column, "missing", f"the row has: {names:.100}")
    value = row[column]
    if isinstance(value, RowProblem):
        raise value.at(number)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise RowProblem(number, column, "missing", "null")
    if isinstance(value, str):
        _check_text(number, column, value)
        if not value.strip():
            raise RowProblem(number, column, "empty")
        return value
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return _messages(number, column, value)
    raise RowProblem(
        number, column, "wrong type", f"{type(value).__name__}, not text or a list of messages"
    )


def _check_text(number: int, column: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise RowProblem(number, column, "undecodable bytes", "not UTF-8") from None


def _kind(value: Text) -> str:
    return "text" if isinstance(value, str) else "messages"
