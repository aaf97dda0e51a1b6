"""Best-of-n by its formula against every draw that can be made, and against samples."""

import math
from itertools import product

import pytest
import torch

from dpo_lab.objective.best_of_n import best_of_n_kl_bound, best_of_n_logps
from dpo_lab.objective.optimum import exact_kl

REFERENCE = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]], dtype=torch.float64).log()
REWARDS = torch.tensor([[1.0, 0.0, 1.0, 2.0], [3.0, 3.0, 3.0, -1.0]], dtype=torch.float64)


def by_enumeration(logps, rewards, n: int) -> torch.Tensor:
    """Each draw of n responses, its probability shared evenly by the best of them."""
    found = torch.zeros(4, dtype=torch.float64)
    for draw in map(list, product(range(4), repeat=n)):
        best = [index for index in draw if rewards[index] == rewards[draw].max()]
        for index in best:
            found[index] += logps[draw].sum().exp() / len(best)
    return found


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_the_formula_is_the_enumeration(n):
    found = best_of_n_logps(REFERENCE, REWARDS, n).exp()
    rows = zip(REFERENCE, REWARDS, strict=True)
    expected = torch.stack([by_enumeration(*row, n) for row in rows])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_samples_agree_within_three_standard_errors():
    generator, n, count = torch.Generator().manual_seed(0), 4, 20_000
    draws = torch.multinomial(REFERENCE[0].exp(), n * count, True, generator=generator)
    draws = draws.view(count, n)
    winners = draws.gather(1, REWARDS[0][draws].argmax(-1, keepdim=True))[:, 0]  # the first
    shares = winners.bincount(minlength=4) / count
    probability = best_of_n_logps(REFERENCE, REWARDS, n)[0].exp()
    errors = (probability * (1 - probability) / count).sqrt()
    assert ((shares - probability).abs() < 3 * errors + 1e-12).all()


def test_levels_as_good_as_never_said_are_no_hindrance():
    """Of 1e-30 beside 1, of less than a float64 holds, and at the bottom."""
    reference = torch.tensor([-2000.0, 0.0, -69.0, -800.0], dtype=torch.float64)
    found = best_of_n_logps(reference, torch.tensor([0.0, 1.0, 2.0, 3.0]), 3)
    rare = math.log(3)  # any of the three draws may be it
    assert found.tolist() == pytest.approx([-6000, 0, -69 + rare, -800 + rare], abs=1e-6)


def test_many_samples_and_numbers_between():
    whole = [best_of_n_logps(REFERENCE, REWARDS, n)[0].exp() for n in (2.0, 2.5, 3.0)]
    assert whole[0][3] < whole[1][3] < whole[2][3]
    for n in (1.5, 1e3, 1e6):
        assert best_of_n_logps(REFERENCE, REWARDS, n).exp().sum(-1).tolist() == pytest.approx(
            [1, 1]
        )
    limit = best_of_n_logps(REFERENCE, REWARDS, 1e6).exp()
    assert limit[0].tolist() == pytest.approx([0, 0, 0, 1])
    assert limit[1].tolist() == pytest.approx([7 / 9, 1 / 9, 1 / 9, 0])


def test_the_bound_of_its_kl_is_approached_where_no_response_has_much():
    """With 2,000 equally likely responses of different rewards it is off by less than n / 2,000."""
    reference = torch.full((2000,), -torch.tensor(2000.0).log(), dtype=torch.float64)
    for n in (2, 8, 32):
        kl = exact_kl(best_of_n_logps(reference, torch.arange(2000.0), n), reference).item()
        assert best_of_n_kl_bound(n) - n / 2000 < kl < best_of_n_kl_bound(n)
        two = torch.full((2,), math.log(0.5), dtype=torch.float64)
        few = exact_kl(best_of_n_logps(two, torch.tensor([0.0, 1.0]), n), two).item()
        lost = 0.5**n  # the better one has the rest
        expected = lost * math.log(2 * lost) + (1 - lost) * math.log(2 * (1 - lost))
        assert few == pytest.approx(expected) and few < best_of_n_kl_bound(n) - 0.05
        tied = exact_kl(best_of_n_logps(REFERENCE, REWARDS, n), REFERENCE)
        assert (tied < best_of_n_kl_bound(n)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [3.0, 1e5, 1e9, 1e15])
def test_it_is_a_distribution_however_large_n_is(dtype, n):
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(200, 125, generator=generator, dtype=dtype).log_softmax(-1)
    rewards = torch.randint(0, 40, (200, 125), generator=generator).to(dtype)
    sums = best_of_n_logps(reference, rewards, n).exp().sum(-1)
    assert (sums - 1).abs().max() < 1e-9


def test_what_is_never_said_stays_so_and_wrong_numbers_are_refused():
    reference = torch.tensor([-torch.inf, math.log(0.5), math.log(0.5)])
    for n in (1, 2):
        found = best_of_n_logps(reference, torch.tensor([0.0, 1.0, 2.0]), n)
        assert found.exp().tolist() == pytest.approx([0, 0.5**n, 1 - 0.5**n])
    for n in (0.5, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"n={n}: must be a number of samples"):
            best_of_n_logps(REFERENCE, REWARDS, n)
    with pytest.raises(ValueError, match="some are NaN"):
        best_of_n_logps(REFERENCE, REWARDS * math.nan, 2)
