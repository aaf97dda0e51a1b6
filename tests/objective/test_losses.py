import inspect
import math
import re

import pytest
import torch

from dpo_lab.objective.losses import (
    LOSSES,
    PairLogps,
    dpo_loss,
    gradient_weight,
    hinge_loss,
    implicit_rewards,
    ipo_loss,
)
from dpo_lab.objective.preference import preference_nll

SIGMOID, IPO, HINGE = LOSSES["sigmoid"], LOSSES["ipo"], LOSSES["hinge"]
SMOOTH = {"label_smoothing": 0.25}


def at(*margins: float, dtype=torch.float64) -> PairLogps:
    """Pairs of given margins, two thirds of each in the chosen log-ratio, one in the rejected."""
    margin = torch.tensor(margins, dtype=dtype)
    reference = torch.full_like(margin, -5), torch.full_like(margin, -7)
    chosen = (reference[0] + 2 / 3 * margin).requires_grad_()
    rejected = (reference[1] - 1 / 3 * margin).requires_grad_()
    return PairLogps(chosen, rejected, *reference)


def test_log_ratios_and_margins():
    """Chosen -1 against -2 is a log-ratio of 1; rejected -7 against -4 is -3; the margin is 4."""
    pairs = PairLogps(*(torch.tensor([value]) for value in (-1.0, -7.0, -2.0, -4.0)))
    assert pairs.chosen_logratios.item() == 1
    assert pairs.rejected_logratios.item() == -3
    assert pairs.margins.item() == 4


VALUES = [
    ("sigmoid", {}, math.log(4 / 3)),
    ("sigmoid", SMOOTH, 0.75 * math.log(4 / 3) + 0.25 * math.log(4)),
    ("ipo", {}, (3 * math.log(3) - 1.5) ** 2),
    ("hinge", {}, 0.0),
]


@pytest.mark.parametrize("name, options, expected", VALUES)
def test_value_by_hand(name, options, expected):
    """Margin 3 ln 3 at beta 1/3: the reward margin is ln 3 = 1.0986, sigmoid 3/4 and 1/4.

    DPO: -ln(3/4) = ln(4/3). With a quarter of the labels flipped: 3/4 ln(4/3) + 1/4 ln 4.
    IPO: the target is 1 / (2/3) = 1.5, the loss (3 ln 3 - 1.5)^2. Hinge: 1 - ln 3 < 0, so 0.
    """
    loss = LOSSES[name](at(3 * math.log(3)), 1 / 3, **options)
    torch.testing.assert_close(loss.item(), expected, rtol=0, atol=1e-12)


def test_hinge_by_hand():
    """Margins -2 and 3 at beta 1/4: 1 + 1/2 and 1 - 3/4."""
    torch.testing.assert_close(
        hinge_loss(at(-2.0, 3.0), 0.25), torch.tensor([1.5, 0.25], dtype=torch.float64)
    )


@pytest.mark.parametrize("beta", [0.05, 0.5, 5.0])
class TestIdentities:
    def test_every_loss_at_the_reference(self, beta):
        zero = at(0.0)
        assert abs(dpo_loss(zero, beta).item() - math.log(2)) < 1e-6
        assert abs(dpo_loss(zero, beta, 0.3).item() - math.log(2)) < 1e-6
        assert ipo_loss(zero, beta).item() == pytest.approx(1 / (4 * beta**2))
        assert hinge_loss(zero, beta).item() == 1

    def test_dpo_is_bradley_terry_on_implicit_rewards(self, beta):
        pairs = at(-3.0, 0.5, 4.0)
        chosen = implicit_rewards(pairs.policy_chosen, pairs.reference_chosen, beta)
        rejected = implicit_rewards(pairs.policy_rejected, pairs.reference_rejected, beta)
        torch.testing.assert_close(dpo_loss(pairs, beta), preference_nll(chosen, rejected))

    def test_conservative_dpo_is_a_mixture_of_both_labels(self, beta):
        margins = torch.tensor([-3.0, 0.5, 4.0])
        kept, flipped = at(*margins.tolist()), at(*(-margins).tolist())
        torch.testing.assert_close(
            dpo_loss(kept, beta, 0.2), 0.8 * dpo_loss(kept, beta) + 0.2 * dpo_loss(flipped, beta)
        )

    def test_conservative_dpo_has_its_minimum_at_the_log_odds(self, beta):
        best = math.log(0.8 / 0.2) / beta
        here, below, above = dpo_loss(at(best, best - 0.1 / beta, best + 0.1 / beta), beta, 0.2)
        assert here < below and here < above
        assert gradient_weight(SIGMOID, at(best), beta, label_smoothing=0.2).abs() < 1e-12

    def test_ipo_and_hinge_ask_for_one_margin(self, beta):
        target = 1 / (2 * beta)
        assert ipo_loss(at(target), beta).item() == pytest.approx(0, abs=1e-20)
        below, above = ipo_loss(at(target - 1, target + 1), beta)
        torch.testing.assert_close(below, above)
        assert not hinge_loss(at(1.01 / beta, 50 / beta), beta).any()


SLOPES = [
    # d loss / d margin, derived by hand from the formula in the docstring.
    ("sigmoid", {}, lambda m, b: -b * torch.sigmoid(-b * m)),
    ("sigmoid", SMOOTH, lambda m, b: -b * (torch.sigmoid(-b * m) - 0.25)),
    ("ipo", {}, lambda m, b: 2 * (m - 1 / (2 * b))),
    ("hinge", {}, lambda m, b: -b * (b * m < 1).double()),
]


@pytest.mark.parametrize("name, options, slope", SLOPES)
def test_gradient_is_the_analytic_one(name, options, slope):
    """The margin is chosen minus rejected log-ratio, so the two gradients are opposite.

    For DPO, dL/dpolicy_chosen = -beta * sigmoid(-beta * margin); `gradient_weight` is what
    multiplies -beta, `sigmoid(-beta * margin)`.
    """
    loss, beta, margins = LOSSES[name], 0.3, (-7.0, 0.0, 2.0, 9.0)
    pairs = at(*margins)
    expected = slope(torch.tensor(margins, dtype=torch.float64), beta)
    leaves = pairs.policy_chosen, pairs.policy_rejected
    chosen, rejected = torch.autograd.grad(loss(pairs, beta, **options).sum(), leaves)
    torch.testing.assert_close(chosen, expected)
    torch.testing.assert_close(rejected, -expected)
    torch.testing.assert_close(gradient_weight(loss, pairs, beta, **options), -expected / beta)

    def of_policy(chosen, rejected):
        fixed = pairs.reference_chosen, pairs.reference_rejected
        return loss(PairLogps(chosen, rejected, *fixed), beta, **options)

    assert torch.autograd.gradcheck(of_policy, leaves)


def test_gradient_weight_works_without_gradient_and_leaves_none():
    pairs = at(0.0)
    with torch.no_grad():
        weight = gradient_weight(SIGMOID, pairs, 0.1)
    assert weight.item() == 0.5
    assert not weight.requires_grad and pairs.policy_chosen.grad is None


def test_larger_beta_weighs_a_won_pair_less():
    weights = [gradient_weight(SIGMOID, at(2.0), beta).item() for beta in (0.1, 0.5, 1.0, 5.0)]
    assert weights == sorted(weights, reverse=True)
    assert weights[0] > weights[-1] + 0.4


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_dpo_is_stable_where_the_naive_formula_is_not(smoothing):
    """-log sigmoid(x) is -x for x << 0 and 0 for x >> 0; sigmoid itself is 0 or 1 by then."""
    pairs = at(-1e4, 1e4, dtype=torch.float32)
    naive = -torch.log(torch.sigmoid(pairs.margins))
    assert naive[0].isinf()
    loss = dpo_loss(pairs, 1.0, smoothing)
    expected = torch.tensor([(1 - smoothing) * 1e4, smoothing * 1e4])
    torch.testing.assert_close(loss, expected)
    (slope,) = torch.autograd.grad(loss.sum(), pairs.policy_chosen)
    torch.testing.assert_close(slope, torch.tensor([smoothing - 1, smoothing]))


def test_implicit_rewards_carry_beta_and_no_gradient():
    reward = implicit_rewards(torch.tensor([-1.0], requires_grad=True), torch.tensor([-3.0]), 0.5)
    assert reward.item() == 1 and not reward.requires_grad


@pytest.mark.parametrize("name", LOSSES)
def test_registry_is_complete(name):
    loss = LOSSES[name]
    assert name in {case[0] for case in VALUES} & {case[0] for case in SLOPES}
    assert loss.title and loss.formula and loss.reward_meaning and loss.status
    assert re.search(r"\b(19|20)\d\d\b", loss.citation)
    _, _, *options = inspect.signature(loss.function).parameters
    assert tuple(options) == loss.options
    assert "Source:" in loss.function.__doc__ and "beta" in loss.formula
    assert loss(at(0.0, 1.0), 0.1).shape == (2,)
    with pytest.raises(TypeError):
        loss(at(0.0), 0.1, no_such_option=1.0)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("beta", [0, -0.1, math.nan, math.inf])
def test_beta_out_of_range(name, beta):
    with pytest.raises(ValueError, match=r"beta=.*must be a finite number > 0.*closer"):
        LOSSES[name](at(0.0), beta)


@pytest.mark.parametrize("smoothing", [-0.1, 0.5, math.nan])
def test_label_smoothing_out_of_range(smoothing):
    with pytest.raises(ValueError, match=r"label_smoothing=.*\[0, 0\.5\)"):
        dpo_loss(at(0.0), 0.1, smoothing)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="would mix the pairs"):
        PairLogps(torch.zeros(3), torch.zeros(3), torch.zeros(3, 1), torch.zeros(3))
