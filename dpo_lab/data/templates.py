"""What a chat template writes: a prompt as generation sees it, the answer after it, its end."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cached_property, partial

from transformers import PreTrainedTokenizerBase

from dpo_lab.data.messages import Message
from dpo_lab.data.template_settings import clock, day_of, template_of, thinking_of
from dpo_lab.data.thinking import (
    Thinking,
    answer_with_thinking,
    header_of,
    opens,
    switches,
    without_thinking,
)
from dpo_lab.data.tools import TOOLS, with_text_arguments, without_tools

# What was done to a row, in words that are counted and shown.
GENERATED = "answered after the generation prompt, where the template's history drops thinking"
UNOPENED = "with a turn whose generation prompt opens thinking that the conversation does not have"


class CannotEncode(ValueError):
    """A prompt and its response that have no ids a model could be trained on.

    Attributes:
        reason: Why not.
        detail: What is particular to them.
    """

    advice = "Fix the row, or leave it out."

    def __init__(self, model: str, reason: str, detail: str):
        super().__init__(model, reason, detail)
        self.model, self.reason, self.detail = model, reason, detail

    def __str__(self) -> str:
        return f"tokenizer of {self.model!r}: {self.reason} ({self.detail}). {self.advice}"


class TemplateProblem(CannotEncode):
    """A conversation that a chat template cannot write as prompt and answer."""

    advice = "Fix the conversation, or use another template."


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: A Hugging Face tokenizer, with or without a template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return bool(self.tokenizer.chat_template)

    @property
    def text(self) -> str | None:
        """The template itself; the one of several that is used by default."""
        return template_of(self.tokenizer)

    @property
    def writes_date(self) -> bool:
        """Whether it writes the day on which it is used."""
        return "strftime_now" in (self.text or "")

    def render(self, messages: list[Message], answered: bool = False) -> str:
        """A conversation as text.

        Args:
            messages: The conversation.
            answered: Whether it is complete; else the template asks for an answer at its end.

        Raises:
            TemplateProblem: If the template refuses it.
            ValueError: If there is no template.
        """
        name = self.tokenizer.name_or_path
        if not self.exists:
            raise ValueError(
                f"tokenizer of {name!r}: has no chat template, and the data is conversational. "
                "Use plain-text rows, or a model with a chat template."
            )
        day = day_of(self.tokenizer)
        options = {"chat_template": clock(day) + self.text} if day and self.writes_date else {}
        options |= switches(self.text, self.thinking)
        tools = messages[0].get(TOOLS)
        messages = [self.given(message) for message in messages]
        write = partial(
            self.tokenizer.apply_chat_template,
            tools=tools,
            tokenize=False,
            add_generation_prompt=not answered,
            **options,
        )
        try:
            return write(messages)
        except Exception as error:  # a template is a program, and may fail in any way
            for other in with_text_arguments(messages):
                with suppress(Exception):
                    return write(other)
            raise TemplateProblem(name, "refused by the chat template", str(error)) from None

    @property
    def thinking(self) -> Thinking:
        """What becomes of the assistant's thinking."""
        return thinking_of(self.tokenizer)

    def given(self, message: Message) -> Message:
        """A message as the template gets it: without thinking that is not kept."""
        message = without_tools(message)
        if self.thinking == "keep" or message["role"] != "assistant":
            return message
        return without_thinking(message, self.opens_thinking)

    @cached_property
    def opens_thinking(self) -> bool:
        """Whether it asks for an answer by `<think>`."""
        return opens(self.render([{"role": "user", "content": "a"}]))

    def turn(
        self, prompt: list[Message], response: list[Message]
    ) -> tuple[str, str, tuple[str, ...]]:
        """A prompt as it stands in generation, and the same with its answer.

        A thinking template asks for an answer by more than it keeps of one: its generation prompt
        ends in `<think>`, and an answered conversation has no thinking. There an answer with
        thinking is what the model writes after the generation prompt, and then the template's end
        of turn; one without is what the template writes.

        Args:
            prompt: The messages before the answer.
            response: The answer, one message.

        Returns:
            The prompt's text; the whole text, which begins with it; what was done, in words that
            can be counted: `GENERATED` if the whole is the generation prompt with the answer after
            it, rather than what the template writes of an answered conversation; `UNOPENED` if the
            prompt is the generation prompt less the thinking that it opens.

        Raises:
            TemplateProblem: If the template refuses it, or rewrites the prompt once it is answered.
        """
        start, whole = self.render(prompt), self.render(prompt + response, answered=True)
        if whole.startswith(start):
            return start, whole, ()
        answer = self.given(response[-1])
        begun = self._header_end(prompt, start, whole)
        if begun is None and not answer.get("tool_calls"):
            begun = self._shared_request(prompt, start, whole)
        elif begun is not None and not (opens(start[begun:]) and self._thinks(answer)):
            return whole[:begun], whole, (UNOPENED,)
        if begun is None:
            raise self._rewritten(start, whole)
        request, text = start[begun:], answer_with_thinking(answer)
        for already_there in (request, request.strip()):
            if text.startswith(already_there):
                text = text.removeprefix(already_there)
                break
        return start, start + text + self.closing, (GENERATED,)

    def _thinks(self, answer: Message) -> bool:
        return answer != without_thinking(answer, opened=True) and not answer.get("tool_calls")

    def begins(self, messages: list[Message], whole: str) -> tuple[int, tuple[str, ...]]:
        """Where, in a whole conversation's text, the model begins to write after some messages.

        Args:
            messages: What the conversation begins with.
            whole: Its text.

        Returns:
            The place; `UNOPENED` if it is within the generation prompt, which opens thinking.

        Raises:
            TemplateProblem: If the template writes them in another way once more follows.
        """
        start = self.render(messages)
        if whole.startswith(start):
            return len(start), ()
        begun = self._header_end(messages, start, whole)
        if begun is None:
            raise self._rewritten(start, whole)
        return begun, (UNOPENED,)

    def _header_end(self, messages: list[Message], start: str, whole: str) -> int | None:
        """Where an answer begins whose request opens thinking that the whole does not have."""
        kept = self._without_request(messages, start)
        header = None if kept is None else kept + header_of(start[len(kept) :])
        return len(header) if header is not None and whole.startswith(header) else None

    def _shared_request(self, messages: list[Message], start: str, whole: str) -> int | None:
        """How far a request for an answer stands in the whole, where it says more than that."""
        kept = self._without_request(messages, start)
        if kept is None or not whole.startswith(kept):
            return None
        return len(os.path.commonprefix([start, whole]))

    def _rewritten(self, start: str, whole: str) -> TemplateProblem:
        alone, within = (
            self.tokenizer(text, add_special_tokens=False).input_ids for text in (start, whole)
        )
        at = len(os.path.commonprefix([alone, within]))
        return TemplateProblem(
            self.tokenizer.name_or_path,
            "rewritten by the chat template",
            "an answered conversation does not begin with its prompt, so the response cannot be "
            f"told apart: the first token that differs is {self._named(within[at : at + 1])}, in "
            f"place of {self._named(alone[at : at + 1])}",
        )

    def _named(self, ids: list[int]) -> str:
        if not ids:
            return "the end of the text"
        return f"{self.tokenizer.decode(ids)!r}, id {ids[0]}"

    def _without_request(self, prompt: list[Message], start: str) -> str | None:
        """The part of a prompt's text that is no request for an answer; none if it is rewritten."""
        text = self.render(prompt, answered=True)
        end = self.tokenizer.eos_token  # some templates end every text with it
        for kept in (text, text.rstrip().removesuffix(end).rstrip()):
            if start.startswith(kept):
                return kept
        return None

    @cached_property
    def closing(self) -> str:
        """What it writes after an answer; nothing where it does not write the answer as it is."""
        answer = "Answer 3141."
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]
        _, found, after = self.render(messages, answered=True).rpartition(answer)
        return after if found else ""

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Tokens that stand for themselves; some tokenizers mark an end of turn as added only."""
        added = self.tokenizer.added_tokens_decoder.items()
        special = {token for token, text in added if text.content.strip()}
        return frozenset(special.union(self.tokenizer.all_special_ids))

    @cached_property
    def end(self) -> int | None:
        """The special token by which it ends an answer's turn, if any.

        That is one that it writes after an answer whether or not a question follows: the
        `eos_token` if it is among these, or else the first.
        """
        if not self.exists:
            return None
        closing, followed = (
            self.tokenizer(text, add_special_tokens=False).input_ids
            for text in (self.closing, self._followed)
        )
        written = os.path.commonprefix([closing, followed]) if followed else closing
        ends = [token for token in written if token in self.special_ids]
        eos = self.tokenizer.eos_token_id
        return eos if eos in ends else next(iter(ends), None)

    @property
    def _followed(self) -> str:
        """What it writes between an answer and the next question; nothing where it refuses one."""
        answer, question = "Answer 3141.", "Question 2718."
        talk = [("user", "a"), ("assistant", answer), ("user", question)]
        try:
            text = self.render([{"role": role, "content": said} for role, said in talk])
        except TemplateProblem:
            return ""
        return text.partition(answer)[2].partition(question)[0]

    def writes(self, text: str) -> bool:
        """Whether a text holds the template's own markup: it has been rendered already."""
        tokens, asked = self._markup
        return any(token in text for token in tokens) or bool(
            asked and text.rstrip().endswith(asked)
        )

    @cached_property
    def _markup(self) -> tuple[tuple[str, ...], str]:
        """Special tokens around a question, BOS apart, and what asks for its answer."""
        question = "Question 2718."
        try:
            text = self.render([{"role": "user", "content": question}])
        except TemplateProblem:
            return (), ""
        ids = set(self.tokenizer(text, add_special_tokens=False).input_ids) & self.special_ids
        ids -= {self.tokenizer.bos_token_id, self.tokenizer.unk_token_id}
        tokens = (self.tokenizer.convert_ids_to_tokens(token) for token in sorted(ids))
        return tuple(tokens), text.rpartition(question)[2].strip()
