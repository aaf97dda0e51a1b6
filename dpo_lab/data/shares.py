"""Divides the pairs of a batch among processes, so that each has about as many tokens."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from dpo_lab.data.end_tokens import Ids
from dpo_lab.data.pair_ids import TokenizedPair


def shares(pairs: Sequence[TokenizedPair], count: int) -> list[list[int]]:
    """Indices of the pairs in each share: the largest items first, each to the smallest share.

    Pairs with one prompt stay together, since a packed prompt is computed once, unless they are
    more than a fair share.

    Args:
        pairs: The pairs of a batch.
        count: Number of shares; with fewer pairs some are empty.
    """
    by_prompt: dict[Ids, list[int]] = {}
    for index, pair in enumerate(pairs):
        by_prompt.setdefault(pair.prompt, []).append(index)
    items = [(_tokens([pairs[i] for i in members]), members) for members in by_prompt.values()]
    fair = sum(tokens for tokens, _ in items) / count
    whole = [item for item in items if item[0] <= fair]
    split = [index for tokens, members in items if tokens > fair for index in members]
    items = [*whole, *((_tokens([pairs[index]]), [index]) for index in split)]
    result: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, number) for number in range(count)]
    for tokens, members in sorted(items, key=lambda item: (-item[0], item[1])):
        filled, number = heap[0]
        result[number] += members
        heapq.heapreplace(heap, (filled + tokens, number))
    return [sorted(share) for share in result]


def _tokens(pairs: Sequence[TokenizedPair]) -> int:
    """Tokens of pairs with one prompt, which counts once, as does a response of several pairs."""
    responses = {side for pair in pairs for side in (pair.chosen, pair.rejected)}
    return len(pairs[0].prompt) + sum(map(len, responses))
