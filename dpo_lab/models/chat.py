"""A conversation with one model, whose answers come token by token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dpo_lab.data.messages import Message
from dpo_lab.data.pairs import PromptFormat, Text
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.sampling import Completion, sample


class _Stopped(Exception):
    """Ends the sampling of an answer."""


def stream(
    language_model: LanguageModel,
    prompt: Text,
    on_text: Callable[[str], bool | None],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> Completion:
    """Answer one prompt, the text so far handed out after every token.

    The answer is the one that `sample` gives to the prompt alone.

    Args:
        language_model: The model.
        prompt: Text, or messages, in the form in which the model gets them.
        on_text: Called with the answer so far, without a character that is not yet whole; false
            ends the answer.
        max_new_tokens: Most tokens of the answer.
        temperature: 0 is greedy, 1 draws from the model itself.
        seed: Seed of the draw.

    Returns:
        The answer; if it was ended by `on_text`, what there was of it, with `ended` false.
    """
    (ids,), tokens = language_model.encoder.prompts([prompt]), []
    decode = language_model.tokenizer.decode

    def text() -> str:
        return decode(tokens, skip_special_tokens=True).strip()

    def took(_: int, token: int) -> None:
        tokens.append(token)
        if on_text(text().rstrip("\ufffd")) is False:
            raise _Stopped

    try:
        (answer,) = sample(
            language_model,
            [ids],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            each_token=took,
        )
    except _Stopped:
        encoder = language_model.encoder
        return Completion(tuple(ids), tuple(tokens), text(), False, encoder.fingerprint)
    return answer


@dataclass
class Chat:
    """A conversation: every answer is given with the turns before it, the model's own among them.

    A model without a chat template has no turns: it completes each text alone.

    Attributes:
        model: The model.
        prompt_format: How a text is given to it: auto, chat or plain.
        turns: Messages so far.
    """

    model: LanguageModel
    prompt_format: PromptFormat = "auto"
    turns: list[Message] = field(default_factory=list)

    @property
    def remembers(self) -> bool:
        """Whether earlier turns are part of the prompt."""
        return self.model.encoder.chat and self.prompt_format != "plain"

    def ask(self, text: str, on_text: Callable[[str], bool | None], **options) -> Completion:
        """Ask, and keep question and answer as turns.

        Args:
            text: What the user says.
            on_text: As in `stream`.
            **options: As `stream` takes them.
        """
        asked = [*self.turns, {"role": "user", "content": text}]
        prompt: Text = asked if self.remembers else text
        answer = stream(self.model, prompt, on_text, **options)
        self.turns = [*asked, {"role": "assistant", "content": answer.text}]
        return answer

    def forget(self) -> None:
        """Begin a new conversation."""
        self.turns = []
