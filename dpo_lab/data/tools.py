"""Tools that a conversation may call, and calls of them, in the shape that chat templates take.

What cannot be read raises `UnusableRow`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dpo_lab.data.problems import MALFORMED_JSON, UnusableRow

TOOLS = "tools"
"""Name of the column of tools, and of the field of a prompt's first message that keeps them."""


def read_tools(column: str, value: Any) -> list[dict[str, Any]]:
    """The tools of a row: a list of JSON schemas, or JSON of one; none where there is nothing."""
    said = isinstance(value, str)
    if said:
        value = _from_json(column, value) if value.strip() else None
    if value is None or value != value or value == []:
        return []
    if isinstance(value, Mapping):
        value = [value]
    if not (isinstance(value, Sequence) and all(isinstance(tool, Mapping) for tool in value)):
        raise UnusableRow(column, "wrong type", "not a list of tools, each an object")
    return [dict(tool) if said else without_nulls(tool) for tool in value]


def tools_apart(prompt: Any) -> tuple[Any, list[dict[str, Any]]]:
    """A prompt, and the tools that it keeps; none where it is text."""
    if isinstance(prompt, str):
        return prompt, []
    return [without_tools(message) for message in prompt], prompt[0].get(TOOLS, [])


def without_tools(message: Mapping[str, Any]) -> dict[str, Any]:
    """A prompt's first message less the tools that it keeps."""
    return {name: value for name, value in message.items() if name != TOOLS}


def read_calls(column: str, value: Any) -> list[dict[str, Any]]:
    """Calls of tools: OpenAI's `{"function": {"name", "arguments"}}`, or the function alone.

    Arguments that are JSON become the object they say, which templates write as JSON again.
    """
    if isinstance(value, str):
        value = _from_json(column, value)
    calls = [value] if isinstance(value, Mapping) else value
    if not isinstance(calls, Sequence):
        raise UnusableRow(column, "a tool call that cannot be read", f"{type(value).__name__}")
    return [_call(column, call) for call in calls]


def call_text(call: Mapping[str, Any]) -> str:
    """A call for people: `weather(city='Jena')`."""
    function = call["function"]
    arguments = function["arguments"]
    if isinstance(arguments, Mapping):
        arguments = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"{function['name']}({arguments})"


def with_text_arguments(messages: Sequence[Mapping[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The messages with the arguments of their calls as JSON, which some templates want.

    Yields:
        The messages once; nothing where no call has arguments that are an object.
    """
    found, changed = [], False
    for message in messages:
        calls = []
        for call in message.get("tool_calls", ()):
            function = call["function"]
            if not isinstance(function["arguments"], str):
                text = json.dumps(function["arguments"], ensure_ascii=False)
                function, changed = {**function, "arguments": text}, True
            calls.append({**call, "function": function})
        found.append({**message, **({"tool_calls": calls} if calls else {})})
    if changed:
        yield found


def without_nulls(value: Any) -> Any:
    """An object without its fields of no value: a table has every row's fields in every row."""
    if isinstance(value, Mapping):
        return {name: without_nulls(one) for name, one in value.items() if one is not None}
    return [without_nulls(one) for one in value] if isinstance(value, list) else value


def _call(column: str, call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not (isinstance(name, str) and name.strip()):
        raise UnusableRow(
            column,
            "a tool call that cannot be read",
            'it must be {"type": "function", "function": {"name": ..., "arguments": {...}}}',
        )
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        try:
            read = json.loads(arguments)
        except (ValueError, RecursionError):
            read = None
        arguments = read if isinstance(read, dict) else arguments
    else:
        arguments = {} if arguments is None else without_nulls(arguments)
    made = {"name": name, "arguments": arguments}
    kept = {"id": call["id"]} if "function" in call and call.get("id") else {}
    return {"type": "function", **kept, "function": made}


def _from_json(column: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableRow(column, MALFORMED_JSON, str(error)) from None
