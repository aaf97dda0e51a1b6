"""Ids of responses that a model sampled, kept beside their text so that training scores them.

Text is not enough: to encode it again may give other ids (a leading space, a word split in another
way), and says that the response ended, which one that was cut at its limit never did.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dpo_lab.data.problems import UnusableRow

_LARGEST = 2**31
"""Tokenizers keep ids in 32 bits."""


@dataclass(frozen=True)
class Sampled:
    """A response as its model sampled it.

    Attributes:
        ids: With the end token, if it ended.
        ended: Whether the model ended it, rather than the limit of new tokens.
        tokenizer: `Encoder.fingerprint` of the tokenizer that the ids belong to.
    """

    ids: tuple[int, ...]
    ended: bool
    tokenizer: str

    @property
    def cut(self) -> bool:
        """Whether the limit of new tokens cut it."""
        return not self.ended

    def as_dict(self) -> dict[str, Any]:
        """As in a row of pairs: `{"ids": [...], "ended": ..., "tokenizer": ...}`."""
        return asdict(self) | {"ids": list(self.ids)}

    @classmethod
    def from_dict(cls, value: Any) -> Sampled:
        """The same from a row.

        Raises:
            ValueError: If it is none.
        """
        fields = value if isinstance(value, Mapping) else {}
        ids, ended, tokenizer = (fields.get(name) for name in ("ids", "ended", "tokenizer"))
        listed = isinstance(ids, Sequence) and not isinstance(ids, str) and len(ids) > 0
        if not (listed and all(type(one) is int and 0 <= one < _LARGEST for one in ids)):
            raise ValueError("ids is no list of token ids")
        if not (isinstance(ended, bool) and isinstance(tokenizer, str)):
            raise ValueError("ended is not true or false, or tokenizer no text")
        return cls(tuple(ids), ended, tokenizer)


def sampled_column(column: str) -> str:
    """Name of the column that says how the responses of a column were sampled."""
    return f"{column}_sampled"


def sampled_of_row(row: Mapping[str, Any], column: str) -> Sampled | None:
    """What a row says of how the response of a column was sampled; none where it says nothing.

    In a table of text the value is JSON.

    Raises:
        UnusableRow: If it is not what `Sampled.as_dict` writes.
    """
    column = sampled_column(column)
    value = row.get(column)
    try:
        if isinstance(value, str):
            value = json.loads(value) if value.strip() else None
        return None if value is None or value != value else Sampled.from_dict(value)
    except (ValueError, RecursionError) as error:
        raise UnusableRow(column, "not the ids of a sampled response", str(error)) from None


def shown(text: str, cut: bool) -> str:
    """An answer for people: where it was cut at its length limit, that is said."""
    return f"{text} …(cut)" if cut else text
