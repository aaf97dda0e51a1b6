"""Rows that say again what an earlier row said, whole or in all that is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dpo_lab.data.pairs import Pair
from dpo_lab.data.problems import NAMED


@dataclass(frozen=True)
class Repeats:
    """Rows that repeat an earlier one.

    Attributes:
        count: How many.
        rows: The first of them, by number.
    """

    count: int = 0
    rows: tuple[int, ...] = ()

    @classmethod
    def of(cls, rows: Sequence[int]) -> Repeats:
        """All of these rows, each once."""
        rows = list(dict.fromkeys(rows))
        return cls(len(rows), tuple(rows[:NAMED]))


def find_repeats(pairs: Iterable[Pair], unused: Mapping[int, bytes]) -> tuple[Repeats, Repeats]:
    """Pairs that were there before.

    Args:
        pairs: The pairs, in order.
        unused: Digest of what is not used of each pair's row, by its number.

    Returns:
        Rows that repeat an earlier one whole; those that do in all that is used, and differ in the
        rest.
    """
    duplicates, alike = [], []
    whole_rows: set[tuple[bytes, bytes]] = set()
    used_parts: set[bytes] = set()
    for pair in pairs:
        used = _digest(repr(replace(pair, row=0, part=0)))
        whole = used, unused[pair.row]
        if whole in whole_rows:
            duplicates.append(pair.row)
        elif used in used_parts:
            alike.append(pair.row)
        whole_rows.add(whole)
        used_parts.add(used)
    return Repeats.of(duplicates), Repeats.of(alike)


def digest_of_unused(values: Sequence[Mapping[str, Any]]) -> bytes:
    """The same for the same values, in whatever order their names come."""
    try:
        text = json.dumps(values, sort_keys=True, default=repr)
    except TypeError:  # names that are no text, or of several types
        text = repr([sorted(value.items()) for value in values])
    return _digest(text)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
