import math

import pytest
import torch

from dpo_lab.objective.bradley_terry import (
    calibration,
    expected_accuracy,
    preference_nll,
    preference_probability,
    sample_preferences,
)


def test_probability_and_likelihood_by_hand():
    """Rewards 2 + ln 3 and 2: e^ra / (e^ra + e^rb) = 3 / (3 + 1); the 2 falls out."""
    a, b = torch.tensor([2 + math.log(3), 2.0]), torch.tensor([2.0, 2 + math.log(3)])
    torch.testing.assert_close(preference_probability(a, b), torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(
        preference_nll(a, b), torch.tensor([math.log(4 / 3), math.log(4)]), rtol=0, atol=1e-6
    )


def test_likelihood_is_stable_for_far_rewards():
    nll = preference_nll(torch.tensor([-1e4, 1e4]), torch.tensor([0.0, 0.0]))
    torch.testing.assert_close(nll, torch.tensor([1e4, 0.0]))


def test_labels_are_drawn_with_their_probability():
    """At three rewards, n = 20 000 each: the share is within 4 sigma, 4 sqrt(p (1 - p) / n)."""
    n, generator = 20_000, torch.Generator().manual_seed(0)
    a, b = torch.tensor([-1.0, 0.0, 2.0]).repeat(n, 1), torch.zeros(n, 3)
    labels = sample_preferences(a, b, generator)
    assert labels.dtype == torch.bool and labels.shape == (n, 3)
    p = preference_probability(a, b)[0]
    assert ((labels.double().mean(0) - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all()
    again = sample_preferences(a, b, torch.Generator().manual_seed(0))
    assert torch.equal(labels, again)


def test_what_accuracy_is_the_best_to_expect_by_hand() -> None:
    margins = torch.tensor([1.0, -2.0, 0.0, 3.0])
    true = torch.tensor([math.log(3), -math.log(3), 5.0, 0.0])
    # The first wins with 3/4, 1/4, s(5) and 1/2; the reward says first, second, a toss, first.
    assert expected_accuracy(margins, true).item() == pytest.approx((0.75 + 0.75 + 0.5 + 0.5) / 4)
    best = torch.sigmoid(true.abs()).mean().item()
    assert expected_accuracy(true, true).item() == pytest.approx(best)


def test_calibration_by_hand() -> None:
    """Stated 0.6 and right in 2 of 4, stated 0.9 and right in 3 of 3."""
    six, nine = math.log(0.6 / 0.4), math.log(0.9 / 0.1)
    margins = torch.tensor([six, six, -six, -six, nine, nine, nine])
    found = calibration(margins, bins=5)
    assert found.pairs.tolist() == [4, 3]
    assert found.confidence.tolist() == pytest.approx([0.6, 0.9])
    assert found.accuracy.tolist() == [0.5, 1.0]
    assert found.error == pytest.approx((4 * 0.1 + 3 * 0.1) / 7)


def test_labels_drawn_from_the_margins_are_calibrated_and_shouted_ones_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 50_000, generator=generator)
    wins = sample_preferences(first, second, generator)
    margins = torch.where(wins, first - second, second - first)
    assert calibration(margins).error < 0.01
    assert calibration(3 * margins).error > 0.1
