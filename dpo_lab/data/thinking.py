"""What becomes of the thinking that comes before an answer: kept, taken out, or turned off."""

from __future__ import annotations

import re
from typing import Any, Literal

from dpo_lab.data.messages import Message

Thinking = Literal["keep", "strip", "empty"]
"""What is done with the assistant's thinking, `<think>...</think>` or `reasoning_content`. keep: as
the data has it, as far as the chat template keeps it; strip: taken out; empty: taken out, and the
template asks for answers without it, as models are used with thinking turned off."""

_BLOCK = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)
_UNOPENED = re.compile(r".*?</think>\s*", re.DOTALL)
_OPENING = re.compile(r"<think>\s*(</think>\s*)?\Z")
# Names by which templates are told not to think: Qwen's, and DeepSeek's and Granite's.
_SWITCHES = ("enable_thinking", "thinking")


def without_thinking(message: Message, opened: bool = False) -> Message:
    """A message less the thinking at its beginning.

    Args:
        message: The message.
        opened: Whether the prompt has begun the thinking, so that it may only be ended here.
    """
    if message["role"] != "assistant":
        return message
    content = message["content"]
    block = _BLOCK.match(content) or (_UNOPENED.match(content) if opened else None)
    kept = {name: value for name, value in message.items() if name != "reasoning_content"}
    return {**kept, "content": content[block.end() :] if block else content}


def answer_with_thinking(message: Message) -> str:
    """What a model writes as this message where a template does not say how."""
    thought = message.get("reasoning_content")
    return (
        f"<think>\n{thought}\n</think>\n\n{message['content']}" if thought else message["content"]
    )


def opens(request: str) -> bool:
    """Whether a request for an answer begins thinking and leaves it to the model to end it."""
    opening = _OPENING.search(request)
    return opening is not None and not opening[1]


def header_of(request: str) -> str:
    """What asks for an answer, less the thinking that it may begin."""
    return _OPENING.sub("", request)


def switches(template: str, thinking: Thinking) -> dict[str, Any]:
    """What a template is told so that it asks for no thinking.

    Raises:
        ValueError: If it has no such switch.
    """
    if thinking != "empty":
        return {}
    known = [name for name in _SWITCHES if re.search(rf"\b{name}\b", template)]
    if not known:
        raise ValueError(
            "thinking='empty': this chat template cannot be told to ask for no thinking (it reads "
            "neither enable_thinking nor thinking). Use thinking='strip', which takes the thinking "
            "out of the data."
        )
    return dict.fromkeys(known, False)
