"""Packed batches: prefix trees in one unpadded row, so that no token is computed twice.

The responses to a prompt share it, and so does everything else that begins alike: the tokens of a
batch form prefix trees. Written in depth-first order, a token's descendants follow it without a
gap, so one number a token, the end of its subtree, says who may attend to it.

Source:
    Sharing the prompt between the two responses of a pair: Wang and Hegde 2024, arXiv 2410.20305.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from dpo_lab.data.batching import Batch, Trees, integers
from dpo_lab.data.end_tokens import Ids
from dpo_lab.data.text_to_ids import PromptResponse
from dpo_lab.data.token_ids import common_prefix, plain_ids

SHARING_WORTH = 1024
"""Tokens of attention that one token less is worth: a shared token saves its linear layers, but
a larger tree costs attention between tokens that do not see each other."""


def pack(sequences: Sequence[PromptResponse]) -> Batch:
    """Lay out `(prompt, response)` sequences as prefix trees in one row.

    The last token of a response predicts nothing and is not in the row, unless another sequence
    goes on from it. A token that several responses share is computed and scored once. Context
    within a response is computed and not scored.

    Args:
        sequences: Ids; prompts and responses hold at least one token each.

    Returns:
        The batch, on the CPU, with `positions` and `trees`.
    """
    row = _Row()
    scored: dict[tuple[int, int], int] = {}
    token, owner = [], []
    whole = [prompt + plain_ids(response) for prompt, response in sequences]
    for index in sorted(range(len(sequences)), key=whole.__getitem__):
        prompt, response = sequences[index]
        path = row.add(whole[index])
        edges = zip(path[len(prompt) - 1 :], response, strict=True)
        edges = [edge for edge in edges if edge[1] >= 0]
        token += [scored.setdefault(edge, len(scored)) for edge in edges]
        owner += [index] * len(edges)
    row.close(0)
    source, targets = zip(*scored, strict=True)
    return Batch(
        input_ids=integers(row.ids)[None],
        source=integers(source),
        targets=integers(targets),
        token=integers(token),
        response=integers(owner),
        responses=len(sequences),
        real_tokens=sum(map(len, whole)),
        positions=integers(row.depths)[None],
        trees=Trees(integers(row.ends), (*row.starts, len(row.ids))),
    )


def packed_groups(items: Sequence[Sequence[PromptResponse]], budget: int) -> list[list[int]]:
    """Group items so that no group takes more than a budget of tokens when packed.

    Items with one prompt stay together as far as they fit. The groups are few, and filled alike.

    Args:
        items: Sequences that belong together, `(prompt, response)`, all with the item's prompt: one
            response, or the two of a pair.
        budget: Most tokens in a group; an item longer than it stands alone.

    Returns:
        Indices of items, group by group: a function of the items alone.
    """
    if sum(len(prompt) + len(response) for item in items for prompt, response in item) <= budget:
        return [list(range(len(items)))] if items else []
    kept, left = [], []
    for members in _groups_by_estimate(items, budget):
        # How trees join depends on all that lies in the row: what a group takes is measured.
        while len(members) > 1 and _packed_length([items[i] for i in members]) > budget:
            left.append(members.pop())
        kept.append(members)
    rest = packed_groups([items[index] for index in left], budget)
    return kept + [[left[place] for place in group] for group in rest]


def _packed_length(items: Sequence[Sequence[tuple[Ids, Ids]]]) -> int:
    """Tokens of the row that `pack` makes of all their sequences."""
    row = _Row()
    for whole in sorted(
        prompt + plain_ids(response) for item in items for prompt, response in item
    ):
        row.add(whole)
    return len(row.ids)


def _groups_by_estimate(items, budget: int) -> list[list[int]]:
    """Groups that fit by the sizes of their units, few and filled alike."""
    units = _units(items, budget)
    fitted: list[tuple[int, list[int]]] = []
    for size, members in units:
        room = next((i for i, (used, _) in enumerate(fitted) if used + size <= budget), None)
        if room is None:
            fitted.append((size, list(members)))
        else:
            used, others = fitted[room]
            fitted[room] = used + size, others + members
    even = [(0, number, []) for number in range(len(fitted))]
    for size, members in units:
        used, number, others = heapq.heappop(even)
        heapq.heappush(even, (used + size, number, others + members))
    if max(used for used, _, _ in even) <= max(used for used, _ in fitted):
        return [members for _, _, members in sorted(even, key=lambda group: group[1])]
    return [members for _, members in fitted]


def _units(items, budget: int) -> list[tuple[int, list[int]]]:
    """Items of one prompt, as many as fit the budget, with their size; largest first.

    The size counts the prompt again where a new tree repeats it, and a response that several items
    have once.
    """
    by_prompt: dict[Ids, list[int]] = {}
    for index, item in enumerate(items):
        by_prompt.setdefault(item[0][0], []).append(index)
    units = []
    for prompt, members in by_prompt.items():
        size, tree, unit = 0, 0, []
        seen: set[Ids] = set()
        for index in members:
            responses = dict.fromkeys(response for _, response in items[index])
            lengths = [len(some) - 1 for some in responses if some not in seen]
            new, after = _grown(len(prompt), lengths, tree)
            if unit and size + new > budget:
                units.append((size, unit))
                size, unit, seen = 0, [], set()
                new, after = _grown(len(prompt), [len(some) - 1 for some in responses], 0)
            size, tree = size + new, after
            seen |= responses.keys()
            unit.append(index)
        units.append((size, unit))
    return sorted(units, key=lambda unit: (-unit[0], unit[1]))


def _grown(prompt: int, responses: list[int], tree: int) -> tuple[int, int]:
    """Tokens that responses of these lengths add to a row, and the size of its last tree then."""
    added = 0
    for new in responses:
        if _begins_tree(prompt, new, tree):
            tree, new = 0, prompt + new
        tree, added = tree + new, added + new
    return added, tree


def _begins_tree(shared: int, new: int, tree: int) -> bool:
    """Whether a sequence begins a tree of its own, and repeats what it shares with the last one."""
    return not tree or shared * SHARING_WORTH < new * tree


class _Row:
    """A row of prefix trees, grown by sequences in lexicographic order."""

    def __init__(self):
        self.ids: list[int] = []
        self.depths: list[int] = []
        self.ends: list[int] = []
        self.starts: list[int] = []
        self.path: list[int] = []
        self.last: Ids = ()

    def add(self, sequence: Ids) -> list[int]:
        """Add what is new of a sequence; place of each of its tokens but the last."""
        needed = len(sequence) - 1
        shared = min(common_prefix(self.last, sequence), needed, len(self.path))
        tree = len(self.ids) - self.starts[-1] if self.starts else 0
        if _begins_tree(shared, needed - shared, tree):
            shared = 0
            self.starts.append(len(self.ids))
        self.close(shared)
        new = needed - shared
        self.path += range(len(self.ids), len(self.ids) + new)
        self.ids += sequence[shared : shared + new]
        self.depths += range(shared, shared + new)
        self.ends += [0] * new
        self.last = sequence
        return self.path

    def close(self, depth: int) -> None:
        """End the subtrees of the path below a depth."""
        for place in self.path[depth:]:
            self.ends[place] = len(self.ids)
        del self.path[depth:]
