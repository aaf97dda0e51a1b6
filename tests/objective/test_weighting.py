"""LD-DPO's weights of tokens and WPO's weights of pairs, by hand."""

import math

import pytest
import torch

from dpo_lab.objective import weighting
from dpo_lab.objective.weighting import log_square_sums, tail_weights, wpo_weights


def test_what_the_longer_answer_has_more_weighs_alpha():
    """Four tokens beside an answer of two: places 0 and 1 in full, 2 and 3 by alpha."""
    places = torch.tensor([0, 1, 2, 3])
    shared = torch.tensor([2, 2, 2, 2])
    torch.testing.assert_close(
        tail_weights(places, shared, 0.25), torch.tensor([1.0, 1.0, 0.25, 0.25])
    )
    assert tail_weights(places, shared, 0.0).tolist() == [1, 1, 0, 0]
    assert tail_weights(places, shared, 1.0).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("chunk", [3, 6, 7, 1_000_000])
def test_square_sums_by_hand_in_chunks_of_any_size(monkeypatch, chunk):
    """1/4 + 1/16 + 1/16 = 3/8; thirds, 3 x 1/9 = 1/3; a certain token, 1; 1/100 + 81/100."""
    monkeypatch.setattr(weighting, "CHUNK_ELEMENTS", chunk)
    rows = [[1 / 2, 1 / 4, 1 / 4], [1 / 3] * 3, [0, 1, 0], [0.1, 0.9, 0], [1 / 2, 1 / 4, 1 / 4]]
    logits = torch.tensor(rows).log() + torch.tensor([[0.0], [5.0], [-3.0], [0.0], [40.0]])
    sums = log_square_sums(lambda some: logits[some], 5, 3, logits)
    expected = [math.log(s) for s in (3 / 8, 1 / 3, 1, 0.82, 3 / 8)]
    assert sums.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_pair_weighs_the_product_of_both_answers():
    """A token of 1/2 where the squares sum to 3/8: log 4/3 a token. One of 1/4: log 2/3."""
    chosen, rejected = torch.tensor([math.log(4 / 3)]), torch.tensor([math.log(2 / 3)])
    assert wpo_weights(chosen, rejected).item() == pytest.approx(8 / 9, abs=1e-6)
    at_random = torch.zeros(1, requires_grad=True)
    weight = wpo_weights(at_random, at_random)
    assert weight.item() == 1 and not weight.requires_grad
