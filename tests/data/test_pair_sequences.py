"""Which sequences pairs need: chosen, rejected, and for LD-DPO the longer one cut, by hand."""

from dpo_lab.data.packing import pack
from dpo_lab.data.pair_ids import TokenizedPair
from dpo_lab.data.pair_sequences import PairSequences

# 4 chosen tokens against 2 rejected ones, 1 against 3, and 2 against 2.
PAIRS = [
    TokenizedPair((1, 2), (3, 4, 5, 6), (3, 4), 1),
    TokenizedPair((7, 8), (9,), (6, 5, 4), 2),
    TokenizedPair((7,), (5, 5), (6, 6), 3),
]
CHOSEN = [((1, 2), (3, 4, 5, 6)), ((7, 8), (9,)), ((7,), (5, 5))]
REJECTED = [((1, 2), (3, 4)), ((7, 8), (6, 5, 4)), ((7,), (6, 6))]


def test_chosen_first_then_rejected():
    sequences = PairSequences.of(PAIRS)
    assert sequences.all == CHOSEN + REJECTED
    assert len(sequences) == 3 and not sequences.cut and not sequences.longer


def test_the_longer_response_of_each_pair_is_cut_at_the_other_s_length():
    """Chosen 0 to two tokens, rejected 1 (the fifth of all six) to one; equal ones are left."""
    sequences = PairSequences.of(PAIRS, cut=True)
    assert sequences.all == [*CHOSEN, *REJECTED, ((1, 2), (3, 4)), ((7, 8), (6,))]
    assert sequences.longer == (0, 4)
    assert PairSequences.of([PAIRS[2]], cut=True) == PairSequences.of([PAIRS[2]])


def test_a_cut_response_costs_no_token_more_in_a_prefix_tree():
    plain, cut = (pack(PairSequences.of(PAIRS, cut=cut).all) for cut in (False, True))
    assert cut.input_ids.shape == plain.input_ids.shape and cut.responses == 8
