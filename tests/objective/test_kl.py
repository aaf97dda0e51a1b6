import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from dpo_lab.objective.kl import Estimate, token_kl


def test_token_kl_by_hand():
    """Policy (1/4, 3/4), reference (1/2, 1/2): 1/4 ln(1/2) + 3/4 ln(3/2) = 3/4 ln 3 - ln 2.

    The other way round it is 1/2 ln 2 + 1/2 ln(2/3) = ln 2 - 1/2 ln 3.
    """
    uneven, even = torch.tensor([[0, math.log(3)]]), torch.tensor([[7.0, 7.0]])
    expected = 0.75 * math.log(3) - math.log(2)
    assert token_kl(uneven, even).item() == pytest.approx(expected, abs=1e-6)
    assert token_kl(even, uneven).item() == pytest.approx(math.log(2) - math.log(3) / 2, abs=1e-6)


rows = st.lists(st.tuples(*[st.floats(-50, 50)] * 2), min_size=2, max_size=6)


@settings(max_examples=100, deadline=None)
@given(rows, st.floats(-20, 20))
def test_token_kl_is_never_negative_and_zero_for_equals(row, shift):
    policy, reference = torch.tensor(row, dtype=torch.float64).T
    assert token_kl(policy, reference) >= -1e-9
    assert abs(token_kl(policy, policy + shift)) < 1e-9


def test_estimate_by_hand():
    """1, 2, 3, 6: mean 3, variance (4 + 1 + 0 + 9) / 3, standard error sqrt(14 / 3 / 4)."""
    estimate = Estimate.of(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert (estimate.mean, estimate.n) == (3, 4)
    assert estimate.stderr == pytest.approx(math.sqrt(14 / 12))
    one = Estimate.of(torch.tensor([2.0]))
    assert (one.mean, one.n) == (2, 1) and math.isnan(one.stderr)
    with pytest.raises(ValueError, match="no samples.*Raise the number"):
        Estimate.of(torch.tensor([]))


def test_errors_over_prompts_and_for_these_prompts_by_hand():
    """Two prompts, answers 1, 3 and 6, 10: mean 5, means 2 and 8, variances 2 and 8.

    For prompts like these: the standard error of the two means, `sqrt(18 / 2) = 3`. For these
    prompts: `sqrt(2 * 2 + 2 * 8) / 4 = sqrt(5) / 2`. As if all four were independent it would be
    `sqrt(46 / 3 / 4) = 1.96`, too small for the first question and too large for the second.
    """
    estimate = Estimate.of(torch.tensor([1.0, 6.0, 3.0, 10.0]), ["a", "b", "a", "b"])
    assert (estimate.mean, estimate.n, estimate.prompts) == (5, 4, 2)
    assert estimate.stderr == pytest.approx(3)
    assert estimate.stderr_samples == pytest.approx(math.sqrt(5) / 2)


def test_errors_where_a_part_is_not_known():
    """One sample each says nothing of the spread within a prompt; one prompt nothing of others."""
    values = torch.tensor([1.0, 2.0, 3.0, 6.0])
    apart, together = Estimate.of(values, "abcd"), Estimate.of(values, "aaaa")
    assert apart.stderr == pytest.approx(math.sqrt(14 / 12)) == Estimate.of(values).stderr
    assert math.isnan(apart.stderr_samples)
    assert math.isnan(together.stderr) and together.stderr_samples == pytest.approx(apart.stderr)
    uneven = Estimate.of(values, "aaab")  # a lone sample among others: its spread is not known
    assert math.isnan(uneven.stderr_samples) and uneven.stderr > 0


def test_unequal_numbers_of_samples_by_hand():
    """Three answers 0, 3, 3 and one prompt's 6, 8: mean 4, residual sums -6 and 6, G = 2, n = 5.

    Over prompts `sqrt(2 * (36 + 36)) / 5 = 2.4`; within, variances 3 and 2: `sqrt(9 + 4) / 5`.
    """
    estimate = Estimate.of(torch.tensor([0.0, 3.0, 3.0, 6.0, 8.0]), "aaabb")
    assert estimate.mean == 4 and estimate.stderr == pytest.approx(2.4)
    assert estimate.stderr_samples == pytest.approx(math.sqrt(13) / 5)


def test_intervals_cover_what_each_answers():
    """1,000 experiments of 12 prompts (spread 2) with 4 samples each (spread 1), mean 0.

    Standard deviation of the mean: over prompts `sqrt(4 / 12 + 1 / 48)`, for fixed prompts
    `sqrt(1 / 48)`. The mean of the squared errors must be the variance, to 4 of its own errors.
    """
    generator = torch.Generator().manual_seed(0)
    own = 2 * torch.randn(1000, 12, 1, generator=generator, dtype=torch.float64)
    values = own + torch.randn(1000, 12, 4, generator=generator, dtype=torch.float64)
    prompts = [prompt for prompt in range(12) for _ in range(4)]
    found = [Estimate.of(some, prompts) for some in values.flatten(1)]
    for name, variance in (("stderr", 4 / 12 + 1 / 48), ("stderr_samples", 1 / 48)):
        squares = torch.tensor([getattr(one, name) ** 2 for one in found], dtype=torch.float64)
        assert abs(squares.mean() - variance) < 4 * squares.std() / 1000**0.5
