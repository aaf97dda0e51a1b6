"""Which pairs are held out, which prompts stand on both sides, and which rows are repeats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dpo_lab.data.held_out import held_out_prompts, prompt_rank
from dpo_lab.data.preflight.column_files import BLOCK, ColumnFiles, Groups

_NONE = np.zeros(0, np.int64)


@dataclass
class Division:
    """The pairs by side of the split, and what equal prompts and pairs there are.

    Attributes:
        held_out: Which pairs are held out.
        first: Which are the first of their prompt on their side.
        prompts: Number of different prompts.
        equal: Held-out pairs whose prompt is trained on, by index.
        repeated: Pairs that were there before, with the same label, by index.
        both_labels: Pairs that are there with the other label, too, by index.
        largest: Most pairs of one prompt, and the first of them.
    """

    held_out: np.ndarray
    first: np.ndarray
    prompts: int = 0
    equal: np.ndarray = field(default_factory=lambda: _NONE)
    repeated: np.ndarray = field(default_factory=lambda: _NONE)
    both_labels: np.ndarray = field(default_factory=lambda: _NONE)
    largest: tuple[int, int] = (0, 0)


def divide(columns: ColumnFiles, own_split: bool, held_out: float, seed: int) -> Division:
    """Divide the pairs as a run would, and count what is equal.

    Args:
        columns: Of all pairs; `split` is 1 for those of a held-out split.
        own_split: Whether the source has one.
        held_out: Share of the prompts to hold out, if not.
        seed: Which prompts.
    """
    if own_split:
        held = columns.read("split").astype(bool)
    else:
        held = _ranked(columns, held_out, seed)
    found = Division(held, np.zeros(len(columns), bool))
    equal = [_look_at_prompts(groups, found) for groups in columns.groups("prompt")]
    found.equal = np.sort(np.concatenate([_NONE, *equal]))
    seen = [_look_at_pairs(groups) for groups in columns.groups("pair", "turned")]
    found.both_labels = np.sort(np.concatenate([_NONE, *(both for both, _ in seen)]))
    found.repeated = np.sort(np.concatenate([_NONE, *(again for _, again in seen)]))
    return found


def _ranked(columns: ColumnFiles, held_out: float, seed: int) -> np.ndarray:
    """Hold out the prompts that rank first, as `split_by_prompt` does."""
    ranks, changed = [], {}
    for groups in columns.groups("prompt", "rank"):
        own = groups.columns["rank"]
        least = np.minimum.reduceat(own, groups.starts) if len(own) else own
        most = np.maximum.reduceat(own, groups.starts) if len(own) else own
        for group in np.flatnonzero(least != most):  # written in several ways: by the first
            start = groups.starts[group]
            rows = groups.index[start : start + groups.sizes[group]]
            key = min(columns.text(int(row)) for row in rows)
            least[group] = int.from_bytes(prompt_rank(key, seed))
            changed |= dict.fromkeys(map(int, rows), least[group])
        ranks.append(least)
    ordered = np.sort(np.concatenate(ranks)) if ranks else np.zeros(0, np.uint64)
    count = held_out_prompts(len(ordered), held_out) if len(ordered) > 1 else 0
    held = np.zeros(len(columns), bool)
    if not count:
        return held
    last = ordered[count - 1]
    for start, (own,) in columns.blocks("rank"):
        held[start : start + BLOCK] = own <= last
    for row, rank in changed.items():
        held[row] = rank <= last
    return held


def _look_at_prompts(groups: Groups, found: Division) -> np.ndarray:
    """Note the first pair of each prompt; held-out pairs whose prompt is trained on."""
    if not len(groups.starts):
        return _NONE
    held = found.held_out[groups.index]
    found.prompts += len(groups.starts)
    most = int(groups.sizes.argmax())
    if groups.sizes[most] > found.largest[0]:
        found.largest = int(groups.sizes[most]), int(groups.index[groups.starts[most]])
    for side in (held, ~held):
        marked, which = np.flatnonzero(side), np.repeat(np.arange(len(groups.starts)), groups.sizes)
        _, first = np.unique(which[marked], return_index=True)
        found.first[groups.index[marked[first]]] = True
    both = groups.any(held) & groups.any(~held)
    return groups.index[groups.members(both) & held]


def _look_at_pairs(groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that are there with both labels, and those that were there before with the same."""
    if not len(groups.starts):
        return _NONE, _NONE
    turned = groups.columns["turned"]
    both = groups.members(groups.any(turned) & groups.any(~turned))
    again = np.zeros(len(turned), bool)
    which = np.repeat(np.arange(len(groups.starts)), groups.sizes)
    for side in (turned, ~turned):
        marked = np.flatnonzero(side)
        _, first = np.unique(which[marked], return_index=True)
        later = np.ones(len(marked), bool)
        later[first] = False
        again[marked[later]] = True
    return groups.index[both], groups.index[again]


def prompt_of(key: str) -> str:
    """A prompt's text, of `Pair.prompt_key`."""
    if key.startswith("[{"):
        try:
            messages = json.loads(key)
        except ValueError:
            return key
        if isinstance(messages, list) and all(isinstance(one, Mapping) for one in messages):
            return "\n".join(str(message.get("content")) for message in messages)
    return key
