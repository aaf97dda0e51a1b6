"""One row to one pair: the three accepted shapes, and what makes a row unusable."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from dpo_lab.data.messages import (
    Message,
    check_roles,
    check_text,
    is_message,
    messages_in_text,
    read_messages,
    role_of,
)
from dpo_lab.data.problems import RowProblem
from dpo_lab.data.sampled import SIDES, Sampled, sampled_of_row

Text = str | list[Message]
PromptFormat = Literal["auto", "chat", "plain"]
"""How a prompt that is text is given to a model: `Encoder.as_prompt`."""

COLUMNS = ("prompt", "chosen", "rejected")
SHAREGPT_PROMPT = "conversations"
"""ShareGPT's name of the column of messages that both answers follow."""
NO_SHARED_PROMPT = "missing, and chosen and rejected share no prompt"

TURN = "\n\nAssistant:"
"""Start of an answer in Anthropic's HH data: a shared prefix is cut after the last of these."""
_OTHER_TURN = "\n\nHuman:"

# Where an answer begins in text that other templates have written.
_ANSWER_MARK = re.compile(
    r"<\|start_header_id\|>assistant<\|end_header_id\|>\n*|<\|im_start\|>assistant\n?"
    r"|<start_of_turn>model\n?|<\|assistant\|>\n?|\[/INST\]"
    r"|(?:^|\n)(?:### )?(?:Assistant|ASSISTANT|Answer|Response|A):\n*"
)


@dataclass(frozen=True)
class Pair:
    """One preference: to `prompt`, people preferred `chosen` over `rejected`.

    Attributes:
        prompt: Text, or the messages before the answer.
        chosen: Text, or one assistant message in a list.
        rejected: The same.
        row: Row number in the source, from 1 (in `.jsonl` files, the line).
        chosen_sampled: How a model sampled chosen, where the row says so (column
            `chosen_sampled`, or so with the name that chosen has): its ids are scored.
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


def same_prompt(prompt: Text) -> str:
    """A key that two prompts share if a person would call them the same.

    White space does not tell prompts apart, nor does the order of a message's fields; and one
    message of the user is its text. Roles, and what comes before, do.
    """
    if isinstance(prompt, str):
        return " ".join(prompt.split())
    turns = [(message["role"], " ".join(message["content"].split())) for message in prompt]
    return turns[0][1] if [role for role, _ in turns] == ["user"] else json.dumps(turns)


def with_messages(number: int, row: Any, columns: Mapping[str, str]) -> Any:
    """A row in which messages that were written as JSON are messages.

    Args:
        number: Its row number.
        row: The row as it was read; a cell that begins as messages do and is no JSON becomes a
            `RowProblem`.
        columns: Names of the three columns in the row.
    """
    if not isinstance(row, Mapping):
        return row
    read = {}
    for column in (*columns.values(), SHAREGPT_PROMPT):
        text = row.get(column)
        if isinstance(text, str):
            try:
                value = messages_in_text(number, column, text)
            except RowProblem as problem:
                value = problem
            if value is not text:
                read[column] = value
    return {**row, **read} if read else row


def row_to_pair(number: int, row: Any, columns: Mapping[str, str]) -> Pair:
    """One row in the lab's shape.

    Args:
        number: Its row number.
        row: The row, `with_messages`, or the problem met in reading it; a cell may be such a
            problem, too.
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
    prompt, name = None, prompt_column(row, columns)
    if name is not None:
        prompt, columns = _field(number, row, name), {**columns, "prompt": name}
    if chosen == rejected:
        raise RowProblem(number, columns["rejected"], "equal to chosen")
    shape = _text_pair if isinstance(chosen, str) else _conversation_pair
    sampled = [sampled_of_row(number, row, columns[side]) for side in SIDES]
    return Pair(*shape(number, prompt, chosen, rejected, columns), number, *sampled)


def prompt_column(row: Mapping, columns: Mapping[str, str]) -> str | None:
    """The column of a row's prompt; none where the answers hold it.

    That is the one called so, or named by the caller, who wants it to be there; or else ShareGPT's,
    if it ends before an answer.
    """
    name = columns["prompt"]
    if name in row or name != "prompt":
        return name
    messages = row.get(SHAREGPT_PROMPT)
    asks = isinstance(messages, list) and messages and role_of(messages[-1]) in ("user", "tool")
    return SHAREGPT_PROMPT if asks else None


def _text_pair(
    number: int, prompt: Text | None, chosen: str, rejected: str, columns: Mapping[str, str]
) -> tuple[str, str, str]:
    if prompt is None:
        shared = os.path.commonprefix([chosen, rejected])
        end = _end_of_prompt(shared)
        prompt, chosen, rejected = chosen[:end], chosen[end:], rejected[end:]
        if not prompt.strip():
            detail = f"both begin with {_shortened(shared)}, which ends at no turn and no line"
            raise _no_shared_prompt(number, columns, detail if shared.strip() else "")
    if not isinstance(prompt, str):
        raise RowProblem(
            number,
            columns["prompt"],
            "wrong type",
            "messages, but chosen and rejected are text; make them lists of one assistant message",
        )
    for side, response in (("chosen", chosen), ("rejected", rejected)):
        if not response.strip():
            raise RowProblem(number, columns[side], "empty response")
        _check_one_turn(number, columns[side], prompt, response)
    return prompt, chosen, rejected


def _end_of_prompt(shared: str) -> int:
    """Where the prompt ends in what both answers begin with: at a turn, or else at a line."""
    at = shared.rfind(TURN)
    if at >= 0:
        return at + len(TURN)
    ends = [mark.end() for mark in _ANSWER_MARK.finditer(shared)]
    return ends[-1] if ends else shared.rfind("\n") + 1


def _check_one_turn(number: int, column: str, prompt: str, response: str) -> None:
    """Refuse an answer in which the other side takes a turn: it would be learnt with it."""
    turns = TURN in prompt
    begun = f"\n\n{response.lstrip()}" if turns else response
    mark = _OTHER_TURN if _OTHER_TURN in begun else TURN if turns and TURN in response else None
    if mark is not None:
        raise RowProblem(
            number,
            column,
            "several turns in an answer",
            f"{mark.strip()!r} in it: the two conversations part before their last turn, or the "
            "answer speaks for the other side; let each end with the first answer that differs",
        )


def _conversation_pair(
    number: int,
    prompt: Text | None,
    chosen: list[Message],
    rejected: list[Message],
    columns: Mapping[str, str],
) -> tuple[list[Message], list[Message], list[Message]]:
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if isinstance(prompt, list):
        # Whole conversations beside their prompt.
        repeated = len(prompt) if chosen[: len(prompt)] == rejected[: len(prompt)] == prompt else 0
        chosen, rejected = chosen[repeated:], rejected[repeated:]
    elif shared:
        if prompt is not None:
            _check_repeats(number, columns["prompt"], prompt, chosen[:shared])
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    elif prompt is not None:
        prompt = [{"role": "user", "content": prompt}]
    else:
        raise _no_shared_prompt(number, columns)
    check_roles(number, columns["prompt"], prompt)
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


def _check_repeats(number: int, column: str, prompt: str, shared: list[Message]) -> None:
    """Refuse a prompt that is not what whole conversations begin with: one of them would vanish."""
    asked = [message["content"].strip() for message in shared if message["role"] == "user"]
    if prompt.strip() not in asked:
        raise RowProblem(
            number,
            column,
            "not the prompt of the conversations",
            f"{_shortened(prompt)}, but chosen and rejected begin with "
            f"{_shortened(asked[-1]) if asked else 'no message of the user'}; leave it out, or "
            "make it the same",
        )


def _no_shared_prompt(number: int, columns: Mapping[str, str], detail: str = "") -> RowProblem:
    return RowProblem(number, columns["prompt"], NO_SHARED_PROMPT, detail)


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
        check_text(number, column, value)
        if not value.strip():
            raise RowProblem(number, column, "empty")
        return value
    if is_message(value):
        value = [value]
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return read_messages(number, column, value)
    raise RowProblem(
        number,
        column,
        "wrong type",
        f"{type(value).__name__}, not text or a list of messages with role and content",
    )


def _kind(value: Text) -> str:
    return "text" if isinstance(value, str) else "messages"


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
