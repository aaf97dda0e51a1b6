"""Batches: which pairs make a step, and how their tokens lie in memory.

A `Batch` names, for every scored token, the place whose hidden state predicts it. So the scorer
needs no mask and no shift, and does not care how the tokens are laid out.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import pad

from dpo_lab.data.grouped_order import grouped_order
from dpo_lab.data.text_to_ids import PromptResponse
from dpo_lab.data.token_ids import plain_ids


@dataclass(frozen=True)
class Trees:
    """How the tokens of a packed row see each other.

    Token `i` attends to token `j` if `j <= i < subtree_end[j]`: to itself and its ancestors.

    Attributes:
        subtree_end: `(length,)`, the place after the last descendant of each token.
        bounds: Where each tree begins, and where the last one ends. Trees do not see each other.
    """

    subtree_end: Tensor
    bounds: tuple[int, ...]

    def to(self, device: torch.device | str) -> Trees:
        """The same on a device."""
        return replace(self, subtree_end=self.subtree_end.to(device))

    def masks(self) -> list[Tensor]:
        """Which tokens attend to which in each tree, `(queries, keys)`, true where it may."""
        masks = []
        for start, end in pairwise(self.bounds):
            place = torch.arange(start, end, device=self.subtree_end.device)
            before = place[:, None] >= place
            masks.append(before & (place[:, None] < self.subtree_end[start:end]))
        return masks


@dataclass(frozen=True)
class Batch:
    """Sequences laid out for one forward pass.

    Attributes:
        input_ids: `(rows, length)`, padded on the right, or packed. Causal attention never looks to
            the right, so no real token sees the padding and no mask is needed.
        source: `(tokens,)`, place in the flattened `rows x length` of the hidden state that
            predicts each scored token: the one before it.
        targets: `(tokens,)`, ids of the scored tokens.
        token: `(members,)`, which scored token; several responses may share one.
        response: `(members,)`, which response it belongs to.
        responses: How many responses there are.
        real_tokens: Tokens of all sequences, without padding, shared ones as often as they occur.
        positions: `(rows, length)`, position ids; none where they run from 0 in every row.
        trees: Which tokens attend to which in a packed row.
        lengths: Tokens of each row without its padding; a packed row has it at its end.
    """

    input_ids: Tensor
    source: Tensor
    targets: Tensor
    token: Tensor
    response: Tensor
    responses: int
    real_tokens: int
    positions: Tensor | None = None
    trees: Trees | None = None
    lengths: tuple[int, ...] | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        if self.input_ids.device == torch.device(device):
            return self
        moved = {
            field.name: value.to(device)
            for field in fields(self)
            if hasattr(value := getattr(self, field.name), "to")
        }
        return replace(self, **moved)

    def filled_up(self, multiple: int, pad_id: int) -> Batch:
        """The same packed row with a length that is a multiple of a number.

        Args:
            multiple: The number.
            pad_id: Id of the tokens at the end, which see only themselves and are not scored.
        """
        length = self.input_ids.shape[1]
        missing = -length % multiple
        if self.trees is None or self.positions is None or not missing:
            return self
        alone = torch.arange(length + 1, length + missing + 1, device=self.input_ids.device)
        return replace(
            self,
            input_ids=pad(self.input_ids, (0, missing), value=pad_id),
            positions=pad(self.positions, (0, missing)),
            trees=Trees(
                torch.cat([self.trees.subtree_end, alone]),
                (*self.trees.bounds, length + missing),
            ),
            lengths=(length,),
        )

    def rows(self, token_values: Tensor) -> tuple[Tensor, Tensor]:
        """A per-token value as a row for each response, and where it has a token.

        Args:
            token_values: `(tokens,)`.

        Returns:
            `(responses, longest)`, 0 after a response's last token; the same, boolean.
        """
        lengths = self.response.bincount(minlength=self.responses)
        order = self.response.argsort(stable=True)
        owner = self.response[order]
        place = torch.arange(len(owner), device=owner.device) - (lengths.cumsum(0) - lengths)[owner]
        values = token_values.new_zeros(self.responses, int(lengths.max()))
        values = values.index_put((owner, place), token_values[self.token[order]])
        return values, torch.arange(values.shape[1], device=owner.device) < lengths[:, None]

    def sums(self, token_values: Tensor) -> Tensor:
        """Sum of a per-token value over each response, `(responses,)`.

        Args:
            token_values: `(tokens,)`.

        On CUDA the order of the additions, and so the last digit, may vary between calls, unless
        `torch.use_deterministic_algorithms` is on.
        """
        zeros = token_values.new_zeros(self.responses)
        return zeros.index_add(0, self.response, token_values[self.token])


def integers(numbers: Iterable[int]) -> Tensor:
    """`(numbers,)`, int64, of at least one number; `torch.tensor` takes seven times as long."""
    return torch.frombuffer(array("q", numbers), dtype=torch.int64)


def collate(sequences: Sequence[PromptResponse], pad_id: int) -> Batch:
    """Lay out `(prompt, response)` sequences, one a row, padded on the right.

    Args:
        sequences: Ids; prompts and responses hold at least one token each.
        pad_id: What fills the rows.

    Returns:
        The batch, on the CPU.
    """
    length = max(len(prompt) + len(response) for prompt, response in sequences)
    rows = [
        [*prompt, *plain_ids(response), *([pad_id] * (length - len(prompt) - len(response)))]
        for prompt, response in sequences
    ]
    scored = [
        (row * length + len(prompt) + place - 1, token, row)
        for row, (prompt, response) in enumerate(sequences)
        for place, token in enumerate(response)
        if token >= 0
    ]
    source, targets, owner = zip(*scored, strict=True)
    return Batch(
        input_ids=torch.tensor(rows),
        source=integers(source),
        targets=integers(targets),
        token=torch.arange(len(targets)),
        response=integers(owner),
        responses=len(sequences),
        real_tokens=sum(len(prompt) + len(response) for prompt, response in sequences),
        lengths=tuple(len(prompt) + len(response) for prompt, response in sequences),
    )


def token_budget_batches(lengths: Sequence[int], budget: int, rows: int = 1) -> Iterator[list[int]]:
    """Group items by length so that no group's padded size exceeds a budget of tokens.

    Args:
        lengths: Tokens of each item's longest row.
        budget: Most `rows x items x longest` in a group; an item longer than it stands alone.
        rows: Rows that one item takes (two for a pair).

    Yields:
        Indices into `lengths`, longest first. A function of the lengths alone, so that the same
        data is always grouped the same way.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    group: list[int] = []
    for index in order:
        if group and rows * (len(group) + 1) * lengths[group[0]] > budget:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


@dataclass(frozen=True)
class PairSampler:
    """Which pairs make each step: a seeded shuffle cut into batches of one size.

    A function of the step, so that a resumed run needs no state. Every epoch is a new permutation;
    a batch may hold the end of one epoch and the beginning of the next, and the last one holds what
    is left.

    Attributes:
        pairs: How many pairs there are.
        batch_pairs: How many make a batch.
        seed: Seed of the shuffle.
        total: How many are shown in all, each time a pair is shown counted; none for no end.
        groups: The group of each pair, to be kept in one batch as far as it fits; by default each
            stands alone.
    """

    pairs: int
    batch_pairs: int
    seed: int
    total: int | None = None
    groups: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.batch_pairs <= self.pairs:
            raise ValueError(
                f"batch_pairs={self.batch_pairs}: must be between 1 and the {self.pairs} training "
                "pairs. Give fewer pairs a batch, or more data."
            )

    def batch(self, step: int) -> list[int]:
        """Indices of the pairs of a step, counted from 0."""
        start, end = self.shown(step), self.shown(step + 1)
        picked = []
        for epoch in range(start // self.pairs, (end - 1) // self.pairs + 1):
            offset = epoch * self.pairs
            order = self._order(epoch)
            picked += order[max(0, start - offset) : end - offset]
        return picked

    def _order(self, epoch: int) -> list[int]:
        if not self.groups:
            return _permutation(self.pairs, self.seed, epoch)
        room = -(epoch * self.pairs) % self.batch_pairs
        return _grouped(self.groups, self.batch_pairs, room, self.seed, epoch)

    def shown(self, steps: int) -> int:
        """Pairs that so many steps have shown."""
        every = steps * self.batch_pairs
        return every if self.total is None else min(every, self.total)


@lru_cache(maxsize=2)
def _permutation(size: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(size, generator=generator).tolist()


@lru_cache(maxsize=2)
def _grouped(groups: tuple[int, ...], size: int, room: int, seed: int, epoch: int) -> list[int]:
    return grouped_order(groups, _permutation(len(set(groups)), seed, epoch), size, room)
