"""KTO and BCO on single responses, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dpo_lab.objective.pair_logps import PairLogps
from dpo_lab.objective.registry import LOSSES, find_loss, loss_and_grads

L = math.log(3)


def singles(baseline: float) -> PairLogps:
    """A response liked with a log-ratio of 2 L, one not liked with -2 L; references are -4 and 0.

    The side that is missing has no token, and 0 on both sides.
    """
    chosen, rejected = torch.tensor([2 * L - 4, 0.0]), torch.tensor([0.0, -2 * L - 4])
    reference = torch.tensor([-4.0, 0.0]), torch.tensor([0.0, -4.0])
    lengths = torch.tensor([5.0, 0.0]), torch.tensor([0.0, 3.0])
    values = [value.double() for value in (chosen, rejected, *reference, *lengths)]
    return PairLogps(*values, baseline=baseline)


CASES = [
    # beta 1/2, z0 = 2 L: the liked one is at it, sigmoid 1/2; the other's is 2 L below: 9/10.
    ("kto", 2 * L, {}, (0.5, 0.1), (-1 / 8, 0.045)),
    ("kto", 2 * L, {"desirable_weight": 3.0, "undesirable_weight": 2.0}, (1.5, 0.2),
     (-3 / 8, 0.09)),
    # z0 = 0: rewards L and -L, sigmoid 3/4 each.
    ("kto", 0.0, {}, (0.25, 0.25), (-3 / 32, 3 / 32)),
    ("bco", 2 * L, {}, (math.log(2), math.log(10 / 9)), (-1 / 4, 1 / 20)),
    ("bco", 0.0, {}, (math.log(4 / 3), math.log(4 / 3)), (-1 / 8, 1 / 8)),
]  # fmt: skip


@pytest.mark.parametrize("name, baseline, options, values, slopes", CASES)
def test_values_and_slopes_by_hand(name, baseline, options, values, slopes):
    losses, grads = loss_and_grads(LOSSES[name], singles(baseline), 0.5, **options)
    torch.testing.assert_close(losses, torch.tensor(values).double(), rtol=0, atol=1e-6)
    expected = torch.tensor([[slopes[0], 0.0], [0.0, slopes[1]]]).double()
    torch.testing.assert_close(grads, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["kto", "bco"])
def test_a_pair_is_its_two_single_responses(name):
    pairs = singles(0.7)
    both = {
        side: getattr(pairs, side).sum().view(1)
        for side in (*list(vars(pairs))[:4], "chosen_lengths", "rejected_lengths")
    }
    together = LOSSES[name](PairLogps(**both, baseline=0.7), 0.5)
    torch.testing.assert_close(together, LOSSES[name](pairs, 0.5).sum().view(1))


def test_kto_s_gradient_fades_on_both_sides_of_its_baseline():
    """Unlike DPO's, which never lets go of a pair that is ranked wrongly."""
    ratios = torch.tensor([-40.0, 0.0, 40.0]).double()
    zero = torch.zeros_like(ratios)
    lengths = torch.ones_like(ratios), zero
    pairs = PairLogps(ratios, zero, zero, zero, *lengths)
    _, (slopes, others) = loss_and_grads(LOSSES["kto"], pairs, 1.0)
    assert slopes[1] == -0.25 and slopes[[0, 2]].abs().max() < 1e-15 and not others.any()


def test_they_are_used_alone():
    for name in ("kto + 0.2 sft", "2 kto", "sigmoid + bco"):
        with pytest.raises(ValueError, match="is a loss of single responses"):
            find_loss(name)
    assert find_loss(" kto ") is LOSSES["kto"]


REFUSED = [({"desirable_weight": -1.0}, "desirable_weight=-1.0: must be a finite number >= 0")]


@pytest.mark.parametrize("options, words", REFUSED)
def test_weights_below_zero_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        LOSSES["kto"](singles(0.0), 0.5, **options)
