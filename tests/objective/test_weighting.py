"""LD-DPO's weights of tokens and WPO's weights of pairs, by hand."""

import math

import pytest
import torch

from dpo_lab.objective.weighting import length_weighted_logps, wpo_weights


def test_what_the_longer_response_has_more_weighs_alpha():
    """Tokens of -1, -2, -4, -8, of which two are shared: -3 and alpha times -12."""
    whole, shared = torch.tensor([-15.0]), torch.tensor([-3.0])
    assert length_weighted_logps(whole, shared, 0.25).tolist() == [-6.0]
    assert length_weighted_logps(whole, shared, 0.0).tolist() == [-3.0]
    assert length_weighted_logps(whole, shared, 1.0).tolist() == [-15.0]


def test_a_pair_weighs_the_product_of_both_answers():
    """A token of 1/2 where the squares sum to 3/8: log 4/3 a token. One of 1/4: log 2/3."""
    chosen, rejected = torch.tensor([math.log(4 / 3)]), torch.tensor([math.log(2 / 3)])
    assert wpo_weights(chosen, rejected).item() == pytest.approx(8 / 9, abs=1e-6)
    at_random = torch.zeros(1, requires_grad=True)
    weight = wpo_weights(at_random, at_random)
    assert weight.item() == 1 and not weight.requires_grad
