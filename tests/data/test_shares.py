from hypothesis import given, strategies as st

from dpo_lab.data.pair_ids import TokenizedPair
from dpo_lab.data.shares import shares


def pair(prompt: int, number: int, chosen: int, rejected: int) -> TokenizedPair:
    """A pair of given lengths; prompts of one number are equal."""
    return TokenizedPair((prompt,) * (1 + prompt), (1,) * chosen, (2,) * rejected, number)


some = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 30), st.integers(1, 30)), max_size=40)


@given(some, st.integers(1, 5))
def test_every_pair_is_in_one_share_and_none_is_much_larger(sizes, count):
    """The share that ends up largest was the smallest, so at most fair, before its last item."""
    pairs = [pair(p, n, c, r) for n, (p, c, r) in enumerate(sizes)]
    divided = shares(pairs, count)
    assert sorted(index for share in divided for index in share) == list(range(len(pairs)))
    assert len(divided) == count
    tokens = [len(p.prompt) + len(p.chosen) + len(p.rejected) for p in pairs]
    fair, largest_item = sum(tokens) / count, max([*tokens, sum(tokens) / count])
    assert all(packed(pairs, share) <= fair + largest_item for share in divided)


def packed(pairs, share) -> int:
    """Tokens of a share in which each prompt is written once."""
    prompts = {pairs[index].prompt for index in share}
    responses = sum(len(pairs[i].chosen) + len(pairs[i].rejected) for i in share)
    return responses + sum(map(len, prompts))


def test_by_hand():
    """The three pairs with a prompt of 1 token take 15 tokens packed, the other pair takes 16."""
    pairs = [pair(0, 0, 2, 2), pair(4, 1, 6, 5), pair(0, 2, 3, 2), pair(0, 3, 2, 3)]
    assert shares(pairs, 2) == [[1], [0, 2, 3]]
    assert shares(pairs, 1) == [[0, 1, 2, 3]]
    assert [len(share) for share in shares(pairs, 6)] == [1, 1, 1, 1, 0, 0]


def test_pairs_with_one_prompt_are_split_when_they_are_too_many():
    pairs = [pair(3, number, 5, 5) for number in range(8)]
    assert [len(share) for share in shares(pairs, 4)] == [2, 2, 2, 2]
