"""Context within a response: tokens that are read and never scored, such as a tool's result.

In a response's ids such a token stands as the complement of its id, `~id`, which is below zero. So
that a response says by itself what of it is scored, in every slice, comparison and cache key; and
code that takes one for an id of the vocabulary fails at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from dpo_lab.data.end_tokens import Ids


def as_context(ids: Sequence[int]) -> Ids:
    """Tokens that are read and not scored."""
    return tuple(~token for token in ids)


def plain_ids(ids: Sequence[int]) -> Ids:
    """The ids that a model reads, whatever of them is scored."""
    return tuple(token if token >= 0 else ~token for token in ids)


def count_scored(ids: Sequence[int]) -> int:
    """How many tokens of a response are scored."""
    return sum(token >= 0 for token in ids)


def turns_of(ids: Ids) -> list[Ids]:
    """The runs of scored tokens in a response: its turns."""
    runs = groupby(ids, key=lambda token: token >= 0)
    return [tuple(run) for scored, run in runs if scored]


def without_end_context(ids: Ids) -> Ids:
    """A response up to its last scored token; what follows that predicts nothing that counts."""
    end = len(ids)
    while end and ids[end - 1] < 0:
        end -= 1
    return ids[:end]


def up_to_scored(ids: Ids, count: int) -> Ids:
    """A response up to its scored token of this number."""
    seen = 0
    for place, token in enumerate(ids):
        seen += token >= 0
        if seen == count:
            return ids[: place + 1]
    return ids


def common_prefix(first: Ids, second: Ids) -> int:
    """Length of what two sequences begin with alike."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count
