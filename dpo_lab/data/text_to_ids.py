"""Text to token ids: a response's are those of the whole text after its prompt, with one end."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

from transformers import PreTrainedTokenizerBase

from dpo_lab.data.end_tokens import EndTokens, Ids
from dpo_lab.data.messages import Message
from dpo_lab.data.pairs import PromptFormat, Text
from dpo_lab.data.rows import TURN
from dpo_lab.data.templates import GENERATED, CannotEncode, ChatTemplate, TemplateProblem
from dpo_lab.data.token_ids import common_prefix
from dpo_lab.data.turns import (
    Written,
    no_end,
    roles_of,
    scored_ids,
    scored_turns,
    write_turns,
)

PromptResponse = tuple[Ids, Ids]
"""Ids of a prompt and of a response to it."""

# What was done to a row, in words that are counted and shown.
MOVED = "whose response begins with a token that is part prompt"
TRIMMED = "with white space after the end token cut"
CHANGED = "with an answer of which the chat template changes or leaves out something"
AS_MESSAGES = "of plain text put through the chat template (prompt_format plain: as it is)"
AS_IT_IS = "of plain text with turns in it used as it is (prompt_format chat: as one message)"
AS_TEXT = "of messages written as plain text, without the chat template"


@dataclass(frozen=True)
class Encoded:
    """Ids of a prompt and of a response to it.

    Attributes:
        prompt: Ids of the prompt, or of as much of it as stands before the response's first token.
        response: The tokens after it: what is scored, with exactly one end token to a turn, and
            between turns what others wrote (`data.token_ids`).
        notes: What was done to them, in words that can be counted.
    """

    prompt: Ids
    response: Ids
    notes: tuple[str, ...] = ()

    @property
    def repaired(self) -> bool:
        """Whether the prompt is shorter than in generation: a token spans the boundary."""
        return MOVED in self.notes


class Encoder:
    """Turns prompts and responses into ids for one tokenizer.

    The ids of prompt and response are those of the whole text: both joined, or the conversation as
    the chat template writes it. The prompt's are those that generation begins with, and the
    response's are what follows them in the whole, so that a model is trained on the tokens that it
    writes itself.

    A token may span the boundary: "Answer: " and "yes" read together hold " yes". Then no response
    that follows the prompt's own ids has the whole's ids. The whole's are kept, since those are
    what models have seen: the boundary goes back to the last token that both have in common, and
    the response holds the few tokens of prompt behind it. This is counted (`Encoded.repaired`), as
    generation still begins with the prompt's own ids. A row of which nothing is left before the
    boundary is refused.

    A tokenizer of whole words (`WordLevel`) has white space between any two of them, and there
    prompt and response are tokenised apart.

    A plain response ends with the tokenizer's `eos_token`, unless it has an end token already; in
    a conversation, with the chat template's end of turn. Either is one token, and is scored.

    Args:
        tokenizer: A Hugging Face tokenizer.
        vocabulary: How many ids the model has an embedding for; all, if not given.

    Raises:
        ValueError: If it has no end token, or one that the model does not know.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: int | None = None):
        name, eos, pad = tokenizer.name_or_path, tokenizer.eos_token_id, tokenizer.pad_token_id
        if eos is None:
            raise ValueError(
                f"tokenizer of {name!r}: has no eos_token, so no response could "
                "end. Set tokenizer.eos_token."
            )
        if vocabulary is not None and eos >= vocabulary:
            raise ValueError(
                f"tokenizer of {name!r}: its eos_token {tokenizer.eos_token!r} has id {eos}, and "
                f"the model has embeddings for {vocabulary} ids, so no response could end. Use the "
                "tokenizer that belongs to the model, or resize the model's embeddings."
            )
        self.tokenizer, self.vocabulary = tokenizer, vocabulary
        self.template = ChatTemplate(tokenizer)
        known = pad is not None and (vocabulary is None or pad < vocabulary)
        self.pad_id = pad if known else eos
        self._ends = EndTokens(tokenizer, self.template)

    @property
    def end_ids(self) -> Ids:
        """Tokens that end a response: `eos_token`, and the chat template's end of turn."""
        return self._ends.ids

    @property
    def chat(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return self.template.exists

    @cached_property
    def bos(self) -> Ids:
        """What the tokenizer adds in front of a text: its BOS token, as a rule, or nothing."""
        alone = self._ids(["a"])[0]
        added = tuple(self.tokenizer("a").input_ids)
        if not alone:  # the letter is no word of this tokenizer
            return added[:1] if added[:1] == (self.tokenizer.bos_token_id,) else ()
        places = range(len(added) - len(alone) + 1)
        return next((added[:at] for at in places if added[at : at + len(alone)] == alone), ())

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what gives ids their meaning: the whole vocabulary, and the tokens that end."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        meaning = json.dumps([vocabulary, sorted(self.end_ids)]).encode()
        return hashlib.blake2b(meaning, digest_size=8).hexdigest()

    def as_prompts(
        self, prompts: Sequence[Text], prompt_format: PromptFormat = "auto"
    ) -> list[Text]:
        """Prompts in the shape in which this model gets them, each by `as_prompt`."""
        return [self.as_prompt(prompt, prompt_format) for prompt in prompts]

    def as_prompt(self, prompt: Text, prompt_format: PromptFormat = "auto") -> Text:
        """A prompt in the shape in which this model gets it, wherever it comes from.

        Args:
            prompt: A text, or a list of messages.
            prompt_format: `auto` makes a text one message of the user if there is a chat template,
                but leaves it as it is where turns are written out in it, in the template's own
                markup or as `Assistant:`; `chat` makes every text a message; `plain` none, and
                turns one message of the user into text.

        Raises:
            TemplateProblem: If a conversation has no plain form.
            ValueError: If there is no such format, or no chat template for `chat`.
        """
        name = self.tokenizer.name_or_path
        if prompt_format not in get_args(PromptFormat):
            raise ValueError(
                f"prompt_format={prompt_format!r}: unknown. "
                f"Use one of {', '.join(get_args(PromptFormat))}."
            )
        if not isinstance(prompt, str):
            if prompt_format != "plain":
                return prompt
            roles = " ".join(message["role"] for message in prompt)
            if roles != "user":
                raise TemplateProblem(name, "no plain form", f"a conversation of {roles}")
            return prompt[0]["content"]
        if prompt_format == "chat" and not self.chat:
            raise ValueError(
                f"prompt_format='chat': the tokenizer of {name!r} has no chat template. "
                "Give one with chat_template, or use prompt_format='plain'."
            )
        if prompt_format == "plain" or not self.chat:
            return prompt
        if prompt_format == "auto" and (TURN in prompt or self.template.writes(prompt)):
            return prompt
        return [{"role": "user", "content": prompt}]

    def prompts(self, prompts: Sequence[Text]) -> list[Ids]:
        """Ids of prompts as generation begins with them.

        Args:
            prompts: Texts, before which BOS stands if the tokenizer adds one, or lists of messages.

        Raises:
            TemplateProblem: If the chat template refuses a conversation.
            CannotEncode: If the model has no embedding for a token.
            ValueError: If there is no chat template for it.
        """
        plain = [isinstance(prompt, str) for prompt in prompts]
        texts = [p if isinstance(p, str) else self.template.render(p) for p in prompts]
        return self._begun(texts, plain)

    def encode(
        self,
        prompts: Sequence[Text],
        responses: Sequence[Text],
        scored: Sequence[Sequence[int]] | None = None,
    ) -> list[Encoded]:
        """Ids of prompts, each with the response to it.

        Args:
            prompts: Texts, or lists of messages.
            responses: Texts, or lists of messages that begin with the assistant, in the same order.
            scored: Which messages of each response are scored; by default all that the assistant
                wrote.

        Raises:
            TemplateProblem: If the chat template refuses a conversation, or rewrites its prompt
                once it is answered.
            CannotEncode: If prompt and response join into one token, a turn before the last has no
                end, or the model has no embedding for a token.
            ValueError: If there is no chat template for it.
        """
        written = [
            self._write(prompt, response, scored and scored[at])
            for at, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
        ]
        plain = [isinstance(response, str) for response in responses]
        starts = [text.text[:start] for text in written for start in text.starts]
        of_row = [alone for text, alone in zip(written, plain, strict=True) for _ in text.starts]
        begun = iter(self._begun(starts, of_row))
        if self._whole_words:
            pieces = iter(self._ids([piece for text in written for piece in text.pieces]))
            each = [sum((next(pieces) for _ in text.pieces), ()) for text in written]
            wholes = [
                self.bos + ids if alone and ids[: len(self.bos)] != self.bos else ids
                for ids, alone in zip(each, plain, strict=True)
            ]
        else:
            wholes = self._begun([text.text for text in written], plain)
        return [
            self._encoded(text, response, [next(begun) for _ in text.starts], whole)
            for text, response, whole in zip(written, responses, wholes, strict=True)
        ]

    def roles(self, prompt: Text, response: Text) -> list[tuple[int, str]]:
        """Who wrote which tokens of a conversation, for people to see.

        Returns:
            How many tokens stand before the end of each message, and its role; nothing for text.
        """
        if isinstance(prompt, str) or isinstance(response, str):
            return []
        messages = prompt + response
        text = self.template.render(messages, answered=True)
        ends = roles_of(self.template, messages, text)
        ids = self._begun([text[:end] for end, _ in ends], [False] * len(ends))
        return [(len(one), role) for one, (_, role) in zip(ids, ends, strict=True)]

    def _write(self, prompt: Text, response: Text, scored: Sequence[int] | None) -> Written:
        """A prompt and its response as one text."""
        if isinstance(response, str):
            whole = prompt + response
            return Written(whole, (len(prompt),), (len(whole),))
        if scored is None:
            scored = scored_turns(response, 0, "all")
        written = write_turns(self.template, prompt, response, scored)
        turns = [response[at] for at in scored]
        return replace(written, notes=written.notes + self._what_became(turns, written))

    def _encoded(self, text: Written, response: Text, begun: list[Ids], whole: Ids) -> Encoded:
        """The ids of one text, parted where the model begins to write."""
        parted = [self._split(ids, whole) for ids in begun]
        prompt, last = parted[0][0], parted[-1][1]
        notes = tuple(dict.fromkeys(note for *_, some in parted for note in some)) + text.notes
        name = self.tokenizer.name_or_path
        if isinstance(response, str):
            last, trimmed = self._ends.cut(last)
        else:
            calls = any(message.get("tool_calls") for message in response[-1:])
            if calls and not set(self.end_ids) & set(last):
                raise no_end(name)
            last, trimmed = self._ends.cut_turn(last)
        places = [len(before) for before, *_ in parted]
        limits = [self._tokens_before(limit, text, whole) for limit in text.limits[:-1]]
        ids = scored_ids(whole, places, limits, self.end_ids, last, name)
        return Encoded(prompt, ids, notes + (TRIMMED,) * trimmed)

    def _tokens_before(self, place: int, text: Written, whole: Ids) -> int:
        """How many tokens stand whole before a place of a conversation's text."""
        (before,) = self._ids([text.text[:place]])
        return common_prefix(before, whole)

    def responses(self, prompts: Sequence[Text], responses: Sequence[Text]) -> list[Ids]:
        """Ids of responses alone, to be read after the ids of their `prompts`.

        Raises:
            CannotEncode: As `encode`; and if a token spans the boundary, so that they do not
                follow them.
        """
        encoded = self.encode(prompts, responses)
        for prompt, one in zip(prompts, encoded, strict=True):
            if one.repaired:
                raise CannotEncode(
                    self.tokenizer.name_or_path,
                    "a token spans the end of the prompt",
                    f"{prompt!r:.60}; Encoder.encode gives the ids of both",
                )
        return [one.response for one in encoded]

    def _what_became(self, turns: list[Message], text: Written) -> tuple[str, ...]:
        """Whether the template leaves out something of a turn that is scored."""
        spans = zip(turns, text.starts, text.limits, strict=True)
        for turn, start, end in spans:
            turn = self.template.given(turn)
            said = [turn["content"], turn.get("reasoning_content", "")]
            said += [call["function"]["name"] for call in turn.get("tool_calls", ())]
            generated = GENERATED in text.notes and end == len(text.text)
            if not generated and any(part.strip() not in text.text[start:end] for part in said):
                return (CHANGED,)
        return ()

    def _split(self, prompt: Ids, whole: Ids) -> tuple[Ids, Ids, tuple[str, ...]]:
        """The whole's ids, parted where the prompt's end or, failing that, no longer agree."""
        if whole[: len(prompt)] == prompt:
            return prompt, whole[len(prompt) :], ()
        at = len(os.path.commonprefix([prompt, whole]))
        first = whole[at : at + 1]
        if whole[:at] in ((), self.bos) or first == (self.tokenizer.unk_token_id,):
            names = self.tokenizer.convert_ids_to_tokens([*first, prompt[at]])
            raise CannotEncode(
                self.tokenizer.name_or_path,
                "prompt and response join into one token",
                f"{names[0]!r} in place of {names[-1]!r}, the first token that differs",
            )
        return whole[:at], whole[at:], (MOVED,)

    @cached_property
    def _whole_words(self) -> bool:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return type(getattr(backend, "model", None)).__name__ == "WordLevel"

    def _begun(self, texts: list[str], plain: list[bool]) -> list[Ids]:
        """Ids of texts, with BOS in front of those that no template has written."""
        return [
            self.bos + ids if alone and ids[: len(self.bos)] != self.bos else ids
            for ids, alone in zip(self._ids(texts), plain, strict=True)
        ]

    def _ids(self, texts: list[str]) -> list[Ids]:
        if not texts:
            return []
        distinct = list(dict.fromkeys(texts))
        rows = self.tokenizer(distinct, add_special_tokens=False).input_ids
        ids = dict(zip(distinct, map(tuple, rows), strict=True))
        if self.vocabulary is not None:
            largest = max(map(max, filter(None, rows)), default=0)
            if largest >= self.vocabulary:
                raise CannotEncode(
                    self.tokenizer.name_or_path,
                    "a token that the model has no embedding for",
                    f"{self.tokenizer.convert_ids_to_tokens(largest)!r} has id {largest} and the "
                    f"model {self.vocabulary} of them; use the tokenizer that belongs to it, or "
                    "resize them",
                )
        return [ids[text] for text in texts]
