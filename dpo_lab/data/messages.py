"""Messages of a conversation in the shapes that data comes in, brought to one.

A message has a role and its content as text. The assistant's may have `tool_calls` and
`reasoning_content`, a tool's `name` and `tool_call_id`, as chat templates take them; and the first
message of a prompt keeps the `tools` that its conversation may call.

What cannot be read raises `UnusableRow`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from dpo_lab.data.problems import MALFORMED_JSON, UnusableRow
from dpo_lab.data.tools import call_text, read_calls

Message = dict[str, Any]

# Which roles may follow a role.
_NEXT_ROLES = {
    "beginning": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
ROLES = tuple(_NEXT_ROLES)[1:]

# Names of the two fields of a message, OpenAI's and ShareGPT's; and the latter's names of roles.
_SHAPES = (("role", "content"), ("from", "value"))
_SHAREGPT_ROLES = {
    "human": "user", "gpt": "assistant", "observation": "tool", "function_call": "assistant",
}  # fmt: skip
# Fields beside role and content that chat templates take.
_FIELDS = {"assistant": ("tool_calls", "reasoning_content"), "tool": ("name", "tool_call_id")}

# How JSON of a list of messages begins, also where Python has written it, which is no JSON.
_LIKE_MESSAGES = re.compile(
    r"""\s*\[\s*\{\s*["'](?:role|from|(?:content|value)["']\s*:.*["'](?:role|from))["']\s*:""",
    re.DOTALL,
)
_LIKE_A_MESSAGE = re.compile(r"""\s*\{\s*"(?:role|content|from|value)"\s*:""")


def messages_in_text(text: str) -> Any:
    """What a cell holds: a list of messages, or one message, where it is JSON of that; else text.

    A table of text has no other way to hold them, and some files write them so in any format.
    """
    several = _LIKE_MESSAGES.match(text)
    if not several and not _LIKE_A_MESSAGE.match(text):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if any(map(is_message, value if several else [value])) else text


def is_message(value: Any) -> bool:
    """Whether a value is one message: an object with role and content, or from and value."""
    return isinstance(value, Mapping) and _fields_of(value) is not None


def role_of(message: Any) -> str | None:
    """The role of a message in either shape; none if it is no message."""
    if not is_message(message):
        return None
    role = message[_fields_of(message)[0]]
    known = "role" not in message and isinstance(role, str)
    return _SHAREGPT_ROLES.get(role, role) if known else role


def read_messages(column: str, value: Sequence) -> list[Message]:
    """A column's messages, the content as text.

    They may be `{role, content}`, or `{from, value}` as ShareGPT has them; content may be a list of
    text parts, which are joined as chat templates join them. Another is an `UnusableRow`.
    """
    if not value:
        raise UnusableRow(column, "empty", "a list of no messages")
    return [_message(column, message) for message in value]


def check_roles(column: str, messages: list[Message], begun: Sequence[Message] = ()) -> None:
    """Refuse messages whose roles do not take turns.

    Args:
        column: Where they come from.
        messages: What is checked.
        begun: The messages before them.
    """
    before = begun[-1]["role"] if begun else "beginning"
    for first, second in pairwise([before, *(message["role"] for message in messages)]):
        if second not in _NEXT_ROLES[first]:
            roles = " ".join(message["role"] for message in messages)
            after = f" after the {before}" if begun else ""
            raise UnusableRow(
                column,
                "roles out of order",
                f"{roles}{after}; after any system message, user and assistant take turns, and a "
                "tool answers the assistant",
            )


def message_text(message: Message) -> str:
    """A message for people: what it says, and the tools it calls."""
    calls = [call_text(call) for call in message.get("tool_calls", ())]
    return "\n".join(filter(None, [message["content"], *calls]))


def check_not_cut(column: str, text: str) -> None:
    """Refuse text that begins as a list of messages does and is no JSON."""
    if _LIKE_MESSAGES.match(text):
        try:
            json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UnusableRow(column, MALFORMED_JSON, str(error)) from None


def check_utf8(column: str, text: str) -> None:
    """Refuse text that cannot be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UnusableRow(column, "undecodable bytes", "not UTF-8") from None


def unread_fields(value: Any) -> dict[str, list]:
    """Fields of a column's messages that are not read, with their values: `weight`, `id`."""
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        return {}
    unread: dict[str, list] = {}
    for message in filter(is_message, value):
        read = _fields_of(message)
        parts = message[read[1]]
        for part in parts if isinstance(parts, list) else ():
            for name in part if isinstance(part, Mapping) else ():
                if name not in ("type", "text"):
                    unread.setdefault(f"content.{name}", []).append(part[name])
        role = role_of(message)
        read += _FIELDS.get(role, ()) if isinstance(role, str) else ()
        for name, content in message.items():
            if name not in read:
                unread.setdefault(name, []).append(content)
    return unread


def _fields_of(message: Mapping) -> tuple[str, str] | None:
    if "role" in message and message.get("tool_calls"):  # which need no content
        return _SHAPES[0]
    return next((names for names in _SHAPES if set(names) <= set(message)), None)


def _message(column: str, message: Any) -> Message:
    if not is_message(message):
        raise UnusableRow(
            column,
            "wrong type",
            "a message is no object with role and content, nor with from and value",
        )
    role, content = role_of(message), message.get(_fields_of(message)[1])
    if role not in ROLES:
        raise UnusableRow(column, "unknown role", repr(role))
    calls = message.get("tool_calls") if role == "assistant" else None
    if message.get("from") == "function_call" and "role" not in message:
        calls, content = content, None
    fields = {"tool_calls": read_calls(column, calls)} if calls else {}
    content = _text_of_parts(column, role, content)
    if content is None and fields:
        content = ""
    if not isinstance(content, str):
        found = type(content).__name__
        raise UnusableRow(column, "wrong type", f"content of the {role} is {found}, not text")
    check_utf8(column, content)
    if role in ("user", "assistant") and not content.strip() and not fields:
        raise UnusableRow(column, "empty", f"message of the {role}")
    for name in set(_FIELDS.get(role, ())) - {"tool_calls"}:
        if isinstance(text := message.get(name), str) and text.strip():
            check_utf8(column, text)
            fields[name] = text
    return {"role": role, "content": content, **fields}


def _text_of_parts(column: str, role: str, content: Any) -> Any:
    """A list of text parts as one text; anything else as it is."""
    if not isinstance(content, list) or not content:
        return content
    if not all(isinstance(part, Mapping) and "type" in part for part in content):
        return content
    for part in content:
        if part["type"] != "text" or not isinstance(part.get("text"), str):
            raise UnusableRow(
                column,
                "wrong type",
                f"content of the {role} has a part of type {part['type']!r}; only text parts "
                '{"type": "text", "text": ...} are read',
            )
    return "".join(part["text"] for part in content)
