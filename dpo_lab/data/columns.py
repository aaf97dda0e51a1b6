"""What becomes of a source's columns: used, unused and named, or a prompt that was overlooked."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dpo_lab.data.messages import unread_fields
from dpo_lab.data.pairs import SIDES, Pair
from dpo_lab.data.problems import RowProblem
from dpo_lab.data.repeats import digest_of_unused
from dpo_lab.data.rows import prompt_column
from dpo_lab.data.sampled import sampled_column
from dpo_lab.data.scores import SCORES
from dpo_lab.data.tools import TOOLS

# The likeliest first: the mapping that an error proposes is of the first that is there.
PROMPT_LIKE = (
    "prompt", "question", "instruction", "query", "request", "problem", "task", "user", "human",
    "input", "conversation", "conversations", "messages", "message", "dialogue", "dialog",
    "history", "context", "post", "document", "passage",
)  # fmt: skip
_PROMPT_LIKE = re.compile(rf"(?:.*[_\W])?({'|'.join(PROMPT_LIKE)})s?")


class ColumnUse:
    """Counts, row by row, what of a source is used.

    Args:
        columns: Names of prompt, chosen and rejected in the source.
        ignored: Columns that are for people, and are not named.

    Attributes:
        unused: Rows with a value in a column that nothing uses; 0 where it is always empty.
        unread: The same of fields of messages.
        digests: Of what is not used of each row that makes a pair, by its number.
        overlooked: Columns that look like a prompt where no prompt was found, and the first row.
    """

    def __init__(self, columns: Mapping[str, str], ignored: Sequence[str] = ()):
        self._columns, self._ignored = columns, frozenset(ignored)
        self.unused: Counter[str] = Counter()
        self.unread: Counter[str] = Counter()
        self.digests: dict[int, bytes] = {}
        self.overlooked: dict[str, int] = {}

    def add(self, number: int, row: Any, made: Pair | RowProblem) -> None:
        """Count a row, `with_messages`, and what was made of it.

        Raises:
            RecursionError: If a value is nested too deep to be looked at; nothing is counted then.
        """
        if not isinstance(row, Mapping):
            return
        prompt = prompt_column(row, self._columns)
        sides = [self._columns[side] for side in SIDES]
        used = {prompt, *sides, *map(sampled_column, sides), *self._scores(row)}
        if isinstance(made, Pair) and not isinstance(made.prompt, str):
            used.add(TOOLS)
        beside = {str(name): row[name] for name in row if name not in used | self._ignored}
        unread = [unread_fields(row.get(name)) for name in (prompt, *sides)]
        filled = {name: value for name, value in beside.items() if _has_value(value)}
        fields = [name for some in unread for name, value in some.items() if _has_value(value)]
        if isinstance(made, Pair):
            self.digests[number] = digest_of_unused([beside, *unread])
        for name in beside:
            self.unused[name] += name in filled
        self.unread.update(list(dict.fromkeys(fields)))
        if prompt is None:
            self._look_for_prompt(number, filled, made)

    def _scores(self, row: Mapping) -> list[str]:
        """The columns of scores, if both are there."""
        names = [self._columns.get(name, name) for name in SCORES]
        return names if all(name in row for name in names) else []

    def _look_for_prompt(
        self, number: int, beside: Mapping[str, Any], made: Pair | RowProblem
    ) -> None:
        """A prompt that stands in messages, or again in what both responses begin with, is used."""
        prompt = None
        if isinstance(made, Pair):
            prompt = made.prompt
        elif made.column != self._columns["prompt"]:
            return
        if isinstance(prompt, list):
            return
        for name, value in beside.items():
            used = prompt is not None and isinstance(value, str) and value.strip() in prompt
            if _looks_like_prompt(name) and not used:
                self.overlooked.setdefault(name, number)

    def check_prompt(self, source: str) -> None:
        """Refuse a source that has a prompt which no pair would have.

        Raises:
            ValueError: With the mapping that would use it.
        """
        if not self.overlooked:
            return
        names = sorted(self.overlooked, key=_likeliness)
        first, row = names[0], self.overlooked[names[0]]
        others = "".join(f" (so does {name!r})" for name in names[1:2])
        raise ValueError(
            f"{source}: there is no column 'prompt', and {first!r} looks like one{others}, but no "
            f"pair would hold it (row {row}). Map it: --columns prompt {first}, or "
            f"columns={{'prompt': {first!r}}}; to leave it out, take it out of the data."
        )


def _looks_like_prompt(name: str) -> bool:
    return _PROMPT_LIKE.fullmatch(name.lower()) is not None and "system" not in name.lower()


def _likeliness(name: str) -> int:
    return PROMPT_LIKE.index(_PROMPT_LIKE.fullmatch(name.lower())[1])


def _has_value(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isnan(value)
    if isinstance(value, (list, tuple)):
        return any(map(_has_value, value))
    return bool(value) if isinstance(value, (str, Mapping)) else value is not None
