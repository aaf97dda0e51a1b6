"""Chat markup in text: of another model's template, the model's own in a message, end tokens."""

from __future__ import annotations

import re
from functools import cached_property

from dpo_lab.data.text_to_ids import Encoder

FAMILIES = {
    "ChatML": ("<|im_start|>", "<|im_end|>"),
    "Llama 3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "Llama 2 or Mistral": ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    "Gemma": ("<start_of_turn>", "<end_of_turn>"),
    "Phi or Zephyr": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    "Command": ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>"),
    "DeepSeek": ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
    "GPT-2": ("<|endoftext|>",),
}
"""Marks that the chat templates of known families write."""


class Markup:
    """Finds markup in text that one model should not see there.

    Args:
        encoder: Of the model.
    """

    def __init__(self, encoder: Encoder):
        self._encoder = encoder

    @cached_property
    def own(self) -> frozenset[str]:
        """Special tokens of the model that its template writes around messages, and end tokens."""
        ids = set(self._encoder.end_ids)
        written = self._encoder.template.text or ""
        special = self._encoder.template.special_ids
        names = self._encoder.tokenizer.convert_ids_to_tokens(sorted(special))
        ends = self._encoder.tokenizer.convert_ids_to_tokens(sorted(ids))
        return frozenset([*ends, *(name for name in names if name in written)])

    @cached_property
    def _foreign(self) -> dict[str, str]:
        """Marks of other families by family; a mark that the model knows is none."""
        written = self._encoder.template.text or ""
        special = sorted(self._encoder.template.special_ids)
        known = set(self._encoder.tokenizer.convert_ids_to_tokens(special))
        return {
            mark: family
            for family, marks in FAMILIES.items()
            for mark in marks
            if mark not in known and mark not in written
        }

    @cached_property
    def _any_foreign(self) -> re.Pattern:
        return re.compile("|".join(map(re.escape, self._foreign)) or r"(?!)")

    @cached_property
    def _any_own(self) -> re.Pattern:
        return re.compile("|".join(map(re.escape, sorted(self.own, key=len))) or r"(?!)")

    @cached_property
    def _ends(self) -> tuple[str, ...]:
        return tuple(self._encoder.tokenizer.convert_ids_to_tokens(list(self._encoder.end_ids)))

    def foreign(self, text: str) -> tuple[str, str] | None:
        """The first mark of another family's template, and that family."""
        found = self._any_foreign.search(text)
        return found and (found[0], self._foreign[found[0]])

    def inside(self, text: str) -> str | None:
        """The first special token of the model's own in a text, the end tokens at its end apart."""
        found = self._any_own.search(self.without_ends(text)[0])
        return found and found[0]

    def without_ends(self, text: str) -> tuple[str, int]:
        """A text without the end tokens at its end, and how many these are."""
        count, rest = 0, text.rstrip()
        while rest.endswith(self._ends):
            end = max((end for end in self._ends if rest.endswith(end)), key=len)
            rest, count = rest[: -len(end)].rstrip(), count + 1
        return rest, count
