"""LD-DPO's weights of tokens and WPO's weights of pairs, by hand."""

import math

import pytest
import torch

from dpo_lab.objective.weighting import tail_weights, wpo_weights


def test_what_the_longer_answer_has_more_weighs_alpha():
    """Four tokens beside an answer of two: places 0 and 1 in full, 2 and 3 by alpha."""
    places = torch.tensor([0, 1, 2, 3])
    shared = torch.tensor([2, 2, 2, 2])
    torch.testing.assert_close(
        tail_weights(places, shared, 0.25), torch.tensor([1.0, 1.0, 0.25, 0.25])
    )
    assert tail_weights(places, shared, 0.0).tolist() == [1, 1, 0, 0]
    assert tail_weights(places, shared, 1.0).tolist() == [1, 1, 1, 1]


def test_a_pair_weighs_the_product_of_both_answers():
    """A token of 1/2 where the squares sum to 3/8: log 4/3 a token. One of 1/4: log 2/3."""
    chosen, rejected = torch.tensor([math.log(4 / 3)]), torch.tensor([math.log(2 / 3)])
    assert wpo_weights(chosen, rejected).item() == pytest.approx(8 / 9, abs=1e-6)
    at_random = torch.zeros(1, requires_grad=True)
    weight = wpo_weights(at_random, at_random)
    assert weight.item() == 1 and not weight.requires_grad
