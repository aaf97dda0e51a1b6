"""Text to token ids: prompt and response apart, one end token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from dpo_lab.data.rows import Message, Text

Ids = tuple[int, ...]


class TemplateProblem(ValueError):
    """A conversation that a chat template cannot write as prompt and answer.

    Attributes:
        reason: Why not.
        detail: What is particular to this conversation.
    """

    def __init__(self, model: str, reason: str, detail: str):
        super().__init__(model, reason, detail)
        self.model, self.reason, self.detail = model, reason, detail

    def __str__(self) -> str:
        return (
            f"tokenizer of {self.model!r}: {self.reason} ({self.detail}). "
            "Mend the conversation, or use another template."
        )


class Encoder:
    """Turns prompts and responses into ids for one tokenizer.

    Prompt and response are tokenised apart and their ids joined, so that no token spans the
    boundary and the mask is exact. A plain response ends with the tokenizer's `eos_token`; in a
    conversation, with the chat template's end of turn. Either is one token, and is scored.

    Args:
        tokenizer: A Hugging Face tokenizer.

    Raises:
        ValueError: If it has no end token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"tokenizer of {tokenizer.name_or_path!r}: has no eos_token, so no response could "
                "end. Set tokenizer.eos_token."
            )
        self.tokenizer = tokenizer
        eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
        self.pad_id = eos if pad is None else pad

    @property
    def chat(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(self.tokenizer.chat_template)

    @cached_property
    def bos(self) -> Ids:
        """What the tokenizer adds in front of a text: its BOS token, or nothing."""
        bos = self.tokenizer.bos_token_id
        added = bos is not None and self.tokenizer("a").input_ids[:1] == [bos]
        return (bos,) if added and self._ids(["a"])[0][:1] != (bos,) else ()

    @cached_property
    def end_ids(self) -> Ids:
        """Tokens that end a response: `eos_token`, and the chat template's end of turn."""
        turn_end = self._turn_end if self.chat else None
        eos = self.tokenizer.eos_token_id
        return (eos,) if turn_end in (None, eos) else (eos, turn_end)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what gives ids their meaning: the whole vocabulary, and the tokens that end."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        meaning = json.dumps([vocabulary, sorted(self.end_ids)]).encode()
        return hashlib.blake2b(meaning, digest_size=8).hexdigest()

    def as_prompt(self, text: str) -> Text:
        """A user's text as this model expects a prompt: a message if it has a chat template."""
        return [{"role": "user", "content": text}] if self.chat else text

    def prompts(self, prompts: Sequence[Text]) -> list[Ids]:
        """Ids of prompts, up to where the response begins.

        Args:
            prompts: Texts, or lists of messages.

        Returns:
            One tuple a prompt, with BOS in front if the tokenizer adds one to text.

        Raises:
            TemplateProblem: If the chat template refuses a conversation.
            ValueError: If there is no chat template for it.
        """
        texts = [prompt if isinstance(prompt, str) else self._render(prompt) for prompt in prompts]
        return [
            ids
            if not isinstance(prompt, str) or ids[: len(self.bos)] == self.bos
            else self.bos + ids
            for prompt, ids in zip(prompts, self._ids(texts), strict=True)
        ]

    def responses(self, prompts: Sequence[Text], responses: Sequence[Text]) -> list[Ids]:
        """Ids of responses to prompts, ending with exactly one end token.

        Args:
            prompts: Texts, or lists of messages.
            responses: Texts, or lists of one assistant message, in the same order.

        Returns:
            One tuple a response.

        Raises:
            TemplateProblem: If the chat template refuses a conversation, or rewrites its prompt
                once it is answered.
            ValueError: If there is no chat template for it.
        """
        texts = [
            response if isinstance(response, str) else self._turn(prompt, response)
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        return [
            _end_once(ids, self.tokenizer.eos_token_id)
            if isinstance(response, str)
            else self._end_turn(ids)
            for response, ids in zip(responses, self._ids(texts), strict=True)
        ]

    def _ids(self, texts: list[str]) -> list[Ids]:
        if not texts:
            return []
        distinct = list(dict.fromkeys(texts))
        rows = self.tokenizer(distinct, add_special_tokens=False).input_ids
        ids = dict(zip(distinct, map(tuple, rows), strict=True))
        return [ids[text] for text in texts]

    def _end_turn(self, ids: Ids) -> Ids:
        """Cut what a template writes after the end of turn: a newline, or one more end token."""
        end = self._turn_end
        if end is None or end not in ids:
            return _end_once(ids, self.tokenizer.eos_token_id)
        return _end_once(ids[: len(ids) - ids[::-1].index(end)], end)

    @cached_property
    def _turn_end(self) -> int | None:
        """The first special token that the chat template writes after an answer, if any."""
        answer = "Answer 3141."
        messages = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": answer},
        ]
        after = self._ids([self._render(messages, answered=True).rpartition(answer)[2]])[0]
        # Some tokenizers do not mark their end of turn as special, only as added.
        added = self.tokenizer.added_tokens_decoder.items()
        special = {token for token, text in added if text.content.strip()}
        special.update(self.tokenizer.all_special_ids)
        return next((token for token in after if token in special), None)

    def _render(self, messages: list[Message], answered: bool = False) -> str:
        name = self.tokenizer.name_or_path
        if not self.chat:
            raise ValueError(
                f"tokenizer of {name!r}: has no chat template, and the data is conversational. "
                "Use plain-text rows, or a model with a chat template."
            )
        try:
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=not answered
            )
        except Exception as error:  # a template is a program, and may fail in any way
            raise TemplateProblem(name, "refused by the chat template", str(error)) from None

    def _turn(self, prompt: list[Message], response: list[Message]) -> str:
        """What the template writes for the answer, after the prompt as it stands in generation."""
        start, whole = self._render(prompt), self._render(prompt + response, answered=True)
        if not whole.startswith(start):
            raise TemplateProblem(
                self.tokenizer.name_or_path,
                "rewritten by the chat template",
                "an answered conversation does not begin with its prompt, so the response cannot "
                "be told apart",
            )
        return whole[len(start) :]


def _end_once(ids: Ids, end: int) -> Ids:
    while ids[-1:] == (end,):
        ids = ids[:-1]
    return ids + (end,)
