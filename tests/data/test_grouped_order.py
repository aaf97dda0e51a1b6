"""Pairs with one prompt in one batch, and what that saves."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings, strategies as st

from dpo_lab.data.batching import PairSampler
from dpo_lab.data.grouped_order import grouped_order
from dpo_lab.data.packing import pack, packed_groups
from dpo_lab.data.pair_ids import TokenizedPair
from dpo_lab.data.shares import shares


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_groups_are_parted_only_where_none_fits(data):
    groups = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=30))
    size = data.draw(st.integers(1, 8))
    names = list(dict.fromkeys(groups))
    shuffle = data.draw(st.permutations(range(len(names))))
    room = data.draw(st.integers(0, size - 1))
    order = grouped_order(groups, shuffle, size, room)
    assert sorted(order) == list(range(len(groups)))
    runs = [[order[0]]]
    for before, item in pairwise(order):
        if groups[item] == groups[before]:
            runs[-1].append(item)
        else:
            runs.append([item])
    assert [run == sorted(run) for run in runs] == [True] * len(names)
    place = -(room or size) % size
    for number, run in enumerate(runs):
        left, later = size - place, runs[number + 1 :]
        if len(run) > left:  # parted, so nothing that is left would have fitted
            assert all(len(other) > left for other in later)
        place = (place + len(run)) % size


def test_prompts_with_as_many_pairs_stay_whole_in_every_epoch():
    """Seven prompts of 6 pairs, 12 a batch: in each epoch 3 whole batches and half of one."""
    groups = tuple(pair // 6 for pair in range(42))
    order = PairSampler(42, 12, seed=1, groups=groups)
    shown = [order.batch(step) for step in range(7)]
    assert sorted(sum(shown, [])) == sorted([*range(42)] * 2)
    for batch in shown:
        assert all(batch.count(6 * (pair // 6) + k) for pair in batch for k in range(6))
    assert order.batch(4) == PairSampler(42, 12, seed=1, groups=groups).batch(4)
    assert shown != [PairSampler(42, 12, seed=2, groups=groups).batch(step) for step in range(7)]


def six_pairs(start: int = 0) -> list[TokenizedPair]:
    """Four responses of 5 tokens to a prompt of 20: every two of them."""
    prompt = tuple(range(start, start + 20))
    responses = [(100 + k, *range(200, 204)) for k in range(4)]
    return [TokenizedPair(prompt, a, b, 1, part=k)
            for k, (a, b) in enumerate(combinations(responses, 2))]  # fmt: skip


def items_of(pairs):
    return [((pair.prompt, pair.chosen), (pair.prompt, pair.rejected)) for pair in pairs]


def test_a_response_of_several_pairs_is_computed_and_scored_once():
    """20 tokens of prompt and 4 of each response, the last of which predicts nothing."""
    batch = pack([sequence for item in items_of(six_pairs()) for sequence in item])
    assert batch.input_ids.shape == (1, 20 + 4 * 4) and len(batch.targets) == 4 * 5
    assert batch.responses == 12 and batch.real_tokens == 12 * 25


@pytest.mark.parametrize("budget, groups", [(36, 2), (72, 1)])
def test_micro_batches_know_that_responses_are_shared(budget, groups):
    """Two prompts: of 36 tokens each, however many pairs their responses make."""
    items = items_of([*six_pairs(), *six_pairs(50)])
    found = packed_groups(items, budget)
    assert len(found) == groups and sorted(sum(found, [])) == list(range(12))


def test_processes_share_by_what_is_computed():
    """Six pairs of one prompt cost 40 tokens, so that a single pair of 60 is the larger share."""
    long = TokenizedPair(tuple(range(50, 90)), (1,) * 10, (2,) * 10, 2)
    assert shares([*six_pairs(), long], 2) == [[6], list(range(6))]
