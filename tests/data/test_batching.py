"""What lies where in a batch, and which pairs make a step."""

import pytest
import torch
from hypothesis import given, strategies as st

from dpo_lab.data.batching import PairSampler, collate, token_budget_batches

PAD = 0


def test_collate_lays_out_what_is_scored():
    batch = collate([((1, 2), (3, 4)), ((5,), (6,)), ((7,), (8, 9, 10))], PAD)
    expected = torch.tensor(
        [
            # place 0  1  2  3
            [1, 2, 3, 4],  # prompt 1 2, response 3 4: predicted from places 1 and 2
            [5, 6, PAD, PAD],  # prompt 5, response 6: from place 4, the padding from none
            [7, 8, 9, 10],  # prompt 7, response 8 9 10: from places 8, 9 and 10
        ]
    )
    assert torch.equal(batch.input_ids, expected)
    assert batch.source.tolist() == [1, 2, 4, 8, 9, 10]
    assert batch.targets.tolist() == [3, 4, 6, 8, 9, 10]
    assert batch.response.tolist() == [0, 0, 1, 2, 2, 2]
    assert (batch.responses, batch.real_tokens) == (3, 10)


SEQUENCES = st.lists(
    st.tuples(
        st.lists(st.integers(1, 99), min_size=1, max_size=6).map(tuple),
        st.lists(st.integers(1, 99), min_size=1, max_size=6).map(tuple),
    ),
    min_size=1,
    max_size=6,
)


@given(SEQUENCES)
def test_every_response_token_is_scored_once_from_the_place_before_it(sequences):
    batch = collate(sequences, PAD)
    flat = batch.input_ids.flatten()
    assert torch.equal(flat[batch.source + 1], batch.targets)
    row = batch.source // batch.input_ids.shape[1]
    assert torch.equal(row, batch.response)
    assert batch.targets.tolist() == [token for _, response in sequences for token in response]
    for (prompt, _), of in zip(sequences, range(len(sequences)), strict=True):
        first = int(batch.source[batch.response == of][0]) % batch.input_ids.shape[1]
        assert first == len(prompt) - 1


def test_sums_are_by_response_and_let_gradients_through():
    batch = collate([((1, 2), (3, 4)), ((5,), (6,)), ((7,), (8, 9, 10))], PAD)
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], requires_grad=True)
    sums = batch.sums(values)
    assert sums.tolist() == [3.0, 4.0, 56.0]
    (sums * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert values.grad.tolist() == [1.0, 1.0, 10.0, 100.0, 100.0, 100.0]


def test_a_batch_moves_whole():
    batch = collate([((1, 2), (3, 4))], PAD).to("meta")
    tensors = (batch.input_ids, batch.source, batch.targets, batch.response)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert (batch.responses, batch.real_tokens) == (1, 4)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200), st.integers(1, 2))
def test_groups_keep_to_the_budget_and_hold_every_item_once(lengths, budget, rows):
    groups = list(token_budget_batches(lengths, budget, rows))
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        size = rows * len(group) * max(lengths[index] for index in group)
        assert size <= budget or len(group) == 1
    # No group is closed before it must be: the next item would not have fitted.
    for group, following in zip(groups, groups[1:], strict=False):
        assert rows * (len(group) + 1) * lengths[group[0]] > budget
        assert lengths[group[-1]] >= lengths[following[0]]


def test_groups_by_hand():
    # Longest first: 5 + 5 fill 10; 3 x 3 = 9, one more would be 12; 1 is left.
    assert list(token_budget_batches([3, 5, 1, 3, 5, 3], 10)) == [[1, 4], [0, 3, 5], [2]]


@given(st.integers(1, 30), st.data(), st.integers(0, 2**31))
def test_every_epoch_is_a_permutation(pairs, data, seed):
    batch_pairs = data.draw(st.integers(1, pairs))
    order = PairSampler(pairs, batch_pairs, seed)
    batches = [order.batch(step) for step in range(3 * pairs)]
    assert all(len(batch) == batch_pairs for batch in batches)
    picked = [index for batch in batches for index in batch]
    for start in range(0, len(picked) - pairs + 1, pairs):
        assert sorted(picked[start : start + pairs]) == list(range(pairs))
    step = data.draw(st.integers(0, 3 * pairs - 1))
    assert PairSampler(pairs, batch_pairs, seed).batch(step) == batches[step]  # needs no history


def test_epochs_and_seeds_differ():
    epochs = [PairSampler(100, 100, 0).batch(step) for step in (0, 1)]
    assert epochs[0] != epochs[1]
    assert PairSampler(100, 100, 1).batch(0) not in epochs
    # 60 + 60 over 100 pairs: the second batch ends one epoch and begins the next.
    assert PairSampler(100, 60, 0).batch(1) == epochs[0][60:] + epochs[1][:20]


@pytest.mark.parametrize("batch_pairs", [0, -1, 11])
def test_batches_that_cannot_be_filled_are_refused(batch_pairs):
    with pytest.raises(ValueError, match="must be between 1 and the 10 training pairs. Give fewer"):
        PairSampler(10, batch_pairs, 0)
