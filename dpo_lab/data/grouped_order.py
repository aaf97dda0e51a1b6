"""An order of pairs in which those with one prompt lie in one batch, as far as they fit."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence


def grouped_order(
    groups: Sequence[Hashable], shuffle: Sequence[int], size: int, room: int = 0
) -> list[int]:
    """Items in batches of one size that keep groups together.

    Each batch takes the next group of a shuffle that fits into what is left of it. So a group is
    parted only where none fits: then the next one of all goes on in the batch after it.

    Args:
        groups: The group of each item.
        shuffle: The order of the groups: places in the order of their first items.
        size: Items in a batch.
        room: Items that are still missing in the batch in which the order begins; 0 for a new one.

    Returns:
        Indices of the items.
    """
    members: dict[Hashable, list[int]] = {}
    for item, group in enumerate(groups):
        members.setdefault(group, []).append(item)
    first_come = list(members.values())
    in_order = [first_come[place] for place in shuffle]
    waiting: dict[int, deque[int]] = {}  # the groups of each size, by their turn
    for turn, items in enumerate(in_order):
        waiting.setdefault(len(items), deque()).append(turn)
    order: list[int] = []
    room = room or size
    while waiting:
        sizes = [count for count in waiting if count <= room] or list(waiting)
        count = min(sizes, key=lambda count: waiting[count][0])
        order += in_order[waiting[count].popleft()]
        if not waiting[count]:
            del waiting[count]
        room = (room - count) % size or size
    return order
