"""How a response ends: with exactly one end token, and nothing after it."""

from __future__ import annotations

from functools import cached_property

from transformers import PreTrainedTokenizerBase

from dpo_lab.data.templates import ChatTemplate

Ids = tuple[int, ...]
"""Token ids."""


class EndTokens:
    """The tokens that end a response, and the cut after the first of them.

    Args:
        tokenizer: A Hugging Face tokenizer with an `eos_token`.
        template: Its chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: ChatTemplate):
        self._tokenizer, self._template = tokenizer, template
        self._eos = tokenizer.eos_token_id
        self._blank: dict[int, bool] = {}

    @cached_property
    def ids(self) -> Ids:
        """`eos_token`, and the chat template's end of turn."""
        turn_end = self._template.end
        return (self._eos,) if turn_end in (None, self._eos) else (self._eos, turn_end)

    def cut(self, ids: Ids) -> tuple[Ids, bool]:
        """A response with one end token, and whether white space after it went."""
        return self._cut(ids, self.ids)

    def cut_turn(self, ids: Ids) -> tuple[Ids, bool]:
        """The same of a turn, after whose end a template may write a newline or an `eos_token`."""
        end = self._template.end
        if end is None or end not in ids:
            return self._cut(ids, (self._eos,))
        return self._cut(ids[: len(ids) - ids[::-1].index(end)], (end,))

    def _cut(self, ids: Ids, ends: Ids) -> tuple[Ids, bool]:
        last = len(ids)
        while last and (ids[last - 1] in ends or self._is_blank(ids[last - 1])):
            last -= 1
        first = next((at for at in range(last, len(ids)) if ids[at] in ends), None)
        if first is None:
            return (*ids, self._eos), False
        return ids[: first + 1], any(token not in ends for token in ids[first + 1 :])

    def _is_blank(self, token: int) -> bool:
        if token not in self._blank:
            special = token in self._template.special_ids
            self._blank[token] = not special and not self._tokenizer.decode([token]).strip()
        return self._blank[token]
