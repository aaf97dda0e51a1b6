import math

import torch

from dpo_lab.objective.preference import (
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
