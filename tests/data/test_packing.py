import random

import pytest
import torch
from hypothesis import given, settings, strategies as st

from dpo_lab.data.packing import pack, packed_groups
from dpo_lab.data.token_ids import common_prefix

P, A, B = (1, 2), (3, 4), (5, 6, 7)


def test_two_responses_hang_on_one_prompt():
    batch = pack([(P, A), (P, B)])
    assert batch.input_ids.tolist() == [[1, 2, 3, 5, 6]], (
        "the last tokens, 4 and 7, predict nothing"
    )
    assert batch.positions.tolist() == [[0, 1, 2, 2, 3]]
    assert batch.trees.subtree_end.tolist() == [5, 5, 3, 5, 5]
    assert batch.trees.bounds == (0, 5)
    #                    3 from 2, 4 from 3, 5 from 2 again, 6 from 5, 7 from 6
    assert batch.source.tolist() == [1, 2, 1, 3, 4]
    assert batch.targets.tolist() == [3, 4, 5, 6, 7]
    assert batch.sums(torch.tensor([1.0, 10.0, 100.0, 1000.0, 10000.0])).tolist() == [11, 11100]
    (mask,) = batch.trees.masks()
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]


def test_what_responses_share_is_computed_and_scored_once():
    batch = pack([(P, (3, 4, 5)), (P, (3, 6)), (P, (3, 4, 5)), (P, (3, 4, 5, 8))])
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5]]
    assert batch.targets.tolist() == [3, 4, 5, 8, 6]
    sums = batch.sums(torch.tensor([1.0, 10.0, 100.0, 1000.0, 10000.0]))
    assert sums.tolist() == [111, 10001, 111, 1111]


def test_the_split_into_prompt_and_response_says_what_is_scored():
    """The same ids, once with a longer prompt: what it does not score, the other still does."""
    batch = pack([((1, 2), (3, 4)), ((1, 2, 3), (4,))])
    assert batch.input_ids.tolist() == [[1, 2, 3]]
    assert batch.sums(torch.tensor([1.0, 10.0])).tolist() == [11, 10]


def test_context_within_a_response_is_read_and_not_scored():
    """`~4` stands for token 4, read alone: another response scores it at the same place."""
    batch = pack([((1,), (3, ~4, 5)), ((1,), (3, 4, 6))])
    assert batch.input_ids.tolist() == [[1, 3, 4]]
    assert batch.targets.tolist() == [3, 5, 4, 6]
    assert batch.sums(torch.tensor([1.0, 10.0, 100.0, 1000.0])).tolist() == [11, 1101]
    assert batch.real_tokens == 8


def test_trees_are_joined_where_that_pays():
    long = tuple(range(10, 60))
    assert pack([((1, *long), A), ((1, *long[::-1]), A)]).trees.bounds == (0, 52, 104)
    assert pack([((1, 2), A), ((1, 9), A)]).trees.bounds == (0, 5)


def random_sequences(rng: random.Random, count: int):
    """Few words, so that much is shared."""
    return [
        (
            tuple(rng.choices(range(3), k=rng.randint(1, 5))),
            tuple(rng.choices(range(3), k=rng.randint(1, 5))),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_every_scored_token_sees_its_own_sequence_and_nothing_else(seed):
    rng = random.Random(seed)
    sequences = random_sequences(rng, 12)
    batch = pack(sequences)
    ids, positions = batch.input_ids[0], batch.positions[0]
    visible = torch.block_diag(*batch.trees.masks()).bool()
    for index, (prompt, response) in enumerate(sequences):
        mine = batch.token[batch.response == index]
        assert batch.targets[mine].tolist() == list(response)
        for place, token in enumerate(mine.tolist()):
            seen = visible[batch.source[token]].nonzero().flatten()
            assert tuple(ids[seen].tolist()) == prompt + response[:place]
            assert positions[seen].tolist() == list(range(len(prompt) + place))


def test_nothing_is_there_twice():
    """As many tokens as there are different beginnings that something is predicted from."""
    sequences = random_sequences(random.Random(0), 40)
    beginnings = {
        (prompt + response)[:length]
        for prompt, response in sequences
        for length in range(1, len(prompt) + len(response))
    }
    batch = pack(sequences)
    assert batch.input_ids.shape[1] == len(beginnings)
    scored = {
        (prompt + response)[:length]
        for prompt, response in sequences
        for length in range(len(prompt) + 1, len(prompt) + len(response) + 1)
    }
    assert len(batch.targets) == len(scored)


def pairs(rng: random.Random, count: int):
    prompts = [tuple(rng.choices(range(9), k=rng.randint(1, 30))) for _ in range(count // 2)]
    return [
        tuple((prompt, tuple(rng.choices(range(9), k=rng.randint(1, 20)))) for _ in range(2))
        for prompt in rng.choices(prompts, k=count)
    ]


@pytest.mark.parametrize("seed", range(10))
def test_groups_hold_every_item_once_within_the_budget(seed):
    items = pairs(random.Random(seed), 40)
    groups = packed_groups(items, 100)
    assert sorted(index for group in groups for index in group) == list(range(40))
    for group in groups:
        batch = pack([sequence for index in group for sequence in items[index]])
        assert batch.input_ids.shape[1] <= 100
    assert groups == packed_groups(items, 100)


def packed_tokens(items, group) -> int:
    return pack([sequence for index in group for sequence in items[index]]).input_ids.shape[1]


def test_a_prompt_that_a_new_tree_repeats_counts_in_its_group():
    """Five answers of 200 tokens make a tree with a prompt of 200; the sixth begins another."""
    items = [((tuple(range(200)), (1000 + number, *range(199))),) for number in range(120)]
    assert packed_tokens(items, range(5)) == 200 + 5 * 199
    assert packed_tokens(items, range(6)) == 2 * 200 + 6 * 199
    groups = packed_groups(items, 8192)
    # Seven trees, the last of four answers: a 35th answer would make it 8365 tokens.
    assert [len(group) for group in groups] == [34, 34, 34, 18]
    assert packed_tokens(items, groups[0]) == 7 * 200 + 34 * 199 == 8166


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 12),
    st.integers(2, 60),
    st.integers(1, 300),
    st.integers(2, 400),
    st.sampled_from([2, 50_000]),
    st.sampled_from([512, 2048, 8192]),
)
def test_no_group_takes_more_than_the_budget(
    seed, prompts, count, prompt_tokens, response_tokens, vocabulary, budget
):
    """Prompts that begin alike, too, and responses that share much or nothing."""
    rng = random.Random(seed)
    system = tuple(rng.choices(range(vocabulary), k=rng.randint(0, 100)))

    def ids(most: int) -> tuple[int, ...]:
        return tuple(rng.choices(range(vocabulary), k=rng.randint(1, most)))

    asked = [system + ids(prompt_tokens) for _ in range(prompts)]
    sides = rng.choice((1, 2))
    items = [
        tuple((prompt, ids(response_tokens)) for _ in range(sides))
        for prompt in rng.choices(asked, k=count)
    ]
    groups = packed_groups(items, budget)
    assert sorted(index for group in groups for index in group) == list(range(count))
    for group in groups:
        assert len(group) == 1 or packed_tokens(items, group) <= budget


def test_groups_keep_a_prompt_together_and_let_a_long_item_stand_alone():
    long = ((tuple(range(200)), (1, 2)),)
    items = [((P, A),), ((A, P),), long, ((P, B),)]
    assert sorted(map(sorted, packed_groups(items, 7))) == [[0, 3], [1], [2]]


def test_groups_are_filled_alike():
    items = [(((number, *range(9)), (1, 2)),) for number in range(6)]
    assert [len(group) for group in packed_groups(items, 11 * 4)] == [3, 3]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [((), (1,), 0), ((1, 2), (1, 3), 1), ((1, 2), (1, 2, 3), 2), ((1,), (2,), 0)],
)
def test_common_prefix(first, second, expected):
    assert common_prefix(first, second) == common_prefix(second, first) == expected
