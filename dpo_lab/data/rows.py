"""One row to one pair: the three accepted shapes, and what makes a row unusable.

`columns` gives the names of prompt, chosen and rejected in the row.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dpo_lab.data.messages import (
    Message,
    check_not_cut,
    check_roles,
    check_utf8,
    is_message,
    messages_in_text,
    read_messages,
    role_of,
)
from dpo_lab.data.pairs import SIDES, Pair, Text, shared_messages
from dpo_lab.data.problems import UnusableRow
from dpo_lab.data.sampled import sampled_of_row
from dpo_lab.data.scores import score_margin
from dpo_lab.data.tools import TOOLS, read_tools

COLUMNS = ("prompt", *SIDES)
SHAREGPT_PROMPT = "conversations"
"""ShareGPT's name of the column of messages that both responses follow."""
NO_SHARED_PROMPT = "missing, and chosen and rejected share no prompt"

TURN = "\n\nAssistant:"
"""Start of a response in Anthropic's HH data: a shared prefix is cut after the last of these."""
_OTHER_TURN = "\n\nHuman:"

# Where a response begins in text that other templates have written.
_RESPONSE_MARK = re.compile(
    r"<\|start_header_id\|>assistant<\|end_header_id\|>\n*|<\|im_start\|>assistant\n?"
    r"|<start_of_turn>model\n?|<\|assistant\|>\n?|\[/INST\]"
    r"|(?:^|\n)(?:### )?(?:Assistant|ASSISTANT|Answer|Response|A):\n*"
)


def with_messages(row: Any, columns: Mapping[str, str]) -> Any:
    """A row as it was read, in which messages that were written as JSON are messages."""
    if not isinstance(row, Mapping):
        return row
    texts = {
        column: text
        for column in (*columns.values(), SHAREGPT_PROMPT)
        if isinstance(text := row.get(column), str)
    }
    read = {column: messages_in_text(text) for column, text in texts.items()}
    return {**row, **read} if read != texts else row


def row_to_pair(number: int, row: Any, columns: Mapping[str, str]) -> Pair:
    """One row, `with_messages`, in the lab's shape.

    Raises:
        UnusableRow: If it cannot be used.
    """
    if not isinstance(row, Mapping):
        found = type(row).__name__
        raise UnusableRow(None, "wrong type", f"{found}, not an object with columns")
    chosen, rejected = (_field(row, columns[side]) for side in SIDES)
    if type(chosen) is not type(rejected):
        kinds = f"{_kind(rejected)}, but chosen is {_kind(chosen)}"
        raise UnusableRow(columns["rejected"], "wrong type", kinds)
    prompt, name = None, prompt_column(row, columns)
    if name is not None:
        prompt, columns = _field(row, name), {**columns, "prompt": name}
    if chosen == rejected:
        raise UnusableRow(columns["rejected"], "equal to chosen")
    if isinstance(chosen, str):
        texts = _text_pair(prompt, chosen, rejected, columns)
    else:
        texts = _conversation_pair(prompt, chosen, rejected, columns)
        tools = read_tools(TOOLS, row.get(TOOLS))
        if tools:
            first, *rest = texts[0]
            texts = ([{**first, TOOLS: tools}, *rest], *texts[1:])
    sampled = [sampled_of_row(row, columns[side]) for side in SIDES]
    return Pair(*texts, number, *sampled, score_margin(row, columns))


def prompt_column(row: Mapping, columns: Mapping[str, str]) -> str | None:
    """The column of a row's prompt; none where the responses hold it.

    That is the one of this name, or the one that the caller named, who wants it to be there; or
    else ShareGPT's, if it ends before a response.
    """
    name = columns["prompt"]
    if name in row or name != "prompt":
        return name
    messages = row.get(SHAREGPT_PROMPT)
    asks = isinstance(messages, list) and messages and role_of(messages[-1]) in ("user", "tool")
    return SHAREGPT_PROMPT if asks else None


def _text_pair(
    prompt: Text | None, chosen: str, rejected: str, columns: Mapping[str, str]
) -> tuple[str, str, str]:
    if prompt is None:
        shared = os.path.commonprefix([chosen, rejected])
        end = _end_of_prompt(shared)
        prompt, chosen, rejected = chosen[:end], chosen[end:], rejected[end:]
        if not prompt.strip():
            detail = f"both begin with {_shortened(shared)}, which ends at no turn and no line"
            detail = detail if shared.strip() else ""
            raise UnusableRow(columns["prompt"], NO_SHARED_PROMPT, detail)
    if not isinstance(prompt, str):
        raise UnusableRow(
            columns["prompt"],
            "wrong type",
            "messages, but chosen and rejected are text; make them lists of one assistant message",
        )
    for side, response in zip(SIDES, (chosen, rejected), strict=True):
        if not response.strip():
            raise UnusableRow(columns[side], "empty response")
        _check_one_turn(columns[side], prompt, response)
    return prompt, chosen, rejected


def _end_of_prompt(shared: str) -> int:
    """Where the prompt ends in what both responses begin with: at a turn, or else at a line."""
    at = shared.rfind(TURN)
    if at >= 0:
        return at + len(TURN)
    ends = [mark.end() for mark in _RESPONSE_MARK.finditer(shared)]
    return ends[-1] if ends else shared.rfind("\n") + 1


def _check_one_turn(column: str, prompt: str, response: str) -> None:
    """Refuse a response in which the other side takes a turn: the model would learn to do so."""
    turns = TURN in prompt
    begun = f"\n\n{response.lstrip()}" if turns else response
    mark = _OTHER_TURN if _OTHER_TURN in begun else TURN if turns and TURN in response else None
    if mark is not None:
        raise UnusableRow(
            column,
            "several turns in an answer",
            f"{mark.strip()!r} in it: the two conversations part before their last turn, or the "
            "answer speaks for the other side; let each end with the first answer that differs",
        )


def _conversation_pair(
    prompt: Text | None,
    chosen: list[Message],
    rejected: list[Message],
    columns: Mapping[str, str],
) -> tuple[list[Message], list[Message], list[Message]]:
    """The messages before the first answer that may differ, and what follows them on either side.

    The responses begin with the assistant. Where the conversations part at a message that somebody
    else wrote, they begin with the answer before it, which both share.
    """
    begun = _begun(prompt, chosen, rejected, columns)
    repeats = chosen[: len(begun)] == rejected[: len(begun)] == begun
    wholes = [side if repeats else begun + side for side in (chosen, rejected)]
    check_roles(columns["prompt"], begun)
    for side, whole in zip(SIDES, wholes, strict=True):
        check_roles(columns[side], whole[len(begun) :], begun)
    shared = shared_messages(*wholes)
    first = next((at for at in range(shared, 0, -1) if _both_answer(wholes, at)), None)
    if first is None:
        roles = " and ".join(" ".join(message["role"] for message in whole) for whole in wholes)
        raise UnusableRow(columns["prompt"], NO_SHARED_PROMPT, f"{roles} share {shared} messages")
    for side, whole in zip(SIDES, wholes, strict=True):
        if all(message["role"] != "assistant" for message in whole[shared:]):
            detail = "after what both conversations share"
            raise UnusableRow(columns[side], "no answer of its own", detail)
    return wholes[0][:first], wholes[0][first:], wholes[1][first:]


def _begun(
    prompt: Text | None,
    chosen: list[Message],
    rejected: list[Message],
    columns: Mapping[str, str],
) -> list[Message]:
    """The prompt as messages; none where the conversations hold it."""
    if isinstance(prompt, list):
        return prompt
    shared = chosen[: shared_messages(chosen, rejected)]
    asks = any(message["role"] == "user" for message in shared)
    if prompt is not None and asks:
        _check_repeats(columns["prompt"], prompt, shared)
    return [] if asks or prompt is None else [{"role": "user", "content": prompt}]


def _both_answer(wholes: Sequence[list[Message]], at: int) -> bool:
    return all(whole[at : at + 1] and whole[at]["role"] == "assistant" for whole in wholes)


def _check_repeats(column: str, prompt: str, shared: list[Message]) -> None:
    """Refuse a prompt that is not what whole conversations begin with: one of them would vanish."""
    asked = [message["content"].strip() for message in shared if message["role"] == "user"]
    if prompt.strip() not in asked:
        raise UnusableRow(
            column,
            "not the prompt of the conversations",
            f"{_shortened(prompt)}, but chosen and rejected begin with "
            f"{_shortened(asked[-1]) if asked else 'no message of the user'}; leave it out, or "
            "make it the same",
        )


def _field(row: Mapping, column: str) -> Text:
    """A column's value: text that can be encoded, or a list of messages."""
    if column not in row:
        names = ", ".join(map(str, row)) or "no column"
        raise UnusableRow(column, "missing", f"the row has: {names:.100}")
    value = row[column]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise UnusableRow(column, "missing", "null")
    if isinstance(value, str):
        check_not_cut(column, value)
        check_utf8(column, value)
        if not value.strip():
            raise UnusableRow(column, "empty")
        return value
    if is_message(value):
        value = [value]
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return read_messages(column, value)
    found = type(value).__name__
    wanted = "text or a list of messages with role and content"
    raise UnusableRow(column, "wrong type", f"{found}, not {wanted}")


def _kind(value: Text) -> str:
    return "text" if isinstance(value, str) else "messages"


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
