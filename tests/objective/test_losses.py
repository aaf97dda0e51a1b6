import inspect
import math
import re
from dataclasses import replace

import pytest
import torch

from dpo_lab.objective.bradley_terry import preference_nll
from dpo_lab.objective.dpo import dpo_loss, hinge_loss, ipo_loss
from dpo_lab.objective.pair_logps import F_DIVERGENCES, PairLogps, implicit_rewards
from dpo_lab.objective.registry import LOSSES, SUMS, find_loss, gradient_weight, loss_and_grads

SIGMOID = LOSSES["sigmoid"]


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


def one_pair(dtype=torch.float64) -> PairLogps:
    """The pair of every value by hand, for beta 1/3, with L = ln 3.

    Chosen: 3 tokens, log-ratio 3 L, so its reward is L: sigmoid(L) = 3/4; policy -3 ln 2, so that
    a token has a mean of 1/2. Rejected: 6 tokens, log-ratio -3 L, reward -L: sigmoid(-L) = 1/4;
    policy -6 ln 4, a mean of 1/4. The margin is 6 L, the reward margin ln 9: sigmoid = 9/10.
    The scores differ by 3.
    """
    policy = -3 * math.log(2), -6 * math.log(4)
    values = (*policy, policy[0] - 3 * L, policy[1] + 3 * L, 3.0, 6.0)
    tensors = [torch.tensor([value], dtype=dtype) for value in values]
    policy = tensors[0].requires_grad_(), tensors[1].requires_grad_()
    scores = torch.tensor([3.0], dtype=dtype)
    return PairLogps(*policy, *tensors[2:], score_margins=scores)


L = math.log(3)
QUARTER = {"label_smoothing": 0.25}
ROOT = math.sqrt(3)
BY_HAND = [
    # name, options, value, slope by chosen, slope by rejected; beta = 1/3 throughout.
    # sigmoid: -ln 0.9; slope -beta * 0.1.
    ("sigmoid", {}, math.log(10 / 9), -1 / 30, 1 / 30),
    # With a quarter of the labels flipped: slope -beta * (0.1 - 0.25), past the minimum.
    ("sigmoid", QUARTER, 0.75 * math.log(10 / 9) + 0.25 * math.log(10), 0.05, -0.05),
    # Means L and -L/2, their difference times beta L/2, e^(L/2) = sqrt 3.
    ("sigmoid_norm", {}, math.log(1 + 1 / ROOT), -1 / (9 * (1 + ROOT)), 1 / (18 * (1 + ROOT))),
    # 1 - ln 9 < 0.
    ("hinge", {}, 0.0, 0.0, 0.0),
    # The target is 1 / (2/3) = 3/2.
    ("ipo", {}, (6 * L - 1.5) ** 2, 2 * (6 * L - 1.5), -2 * (6 * L - 1.5)),
    ("ipo_norm", {}, (1.5 * L - 1.5) ** 2, (L - 1), -(L - 1) / 2),
    # (3/4 ln(10/9) - 1/4 ln 10) / (1/2); slope beta * (-0.75 * 0.1 - 0.25 * 0.9) / 0.5.
    ("robust", QUARTER, 1.5 * math.log(10 / 9) - 0.5 * math.log(10), -0.2, 0.2),
    # q = (0.9, 0.1), p = (0.75, 0.25); slope beta * 0.09 * ln((0.9 / 0.75) / (0.1 / 0.25)).
    ("exo_pair", QUARTER, 0.9 * math.log(1.2) + 0.1 * math.log(0.4), 0.03 * L, -0.03 * L),
    # s = 0.9: 0.1 ln(10/9) + 0.9 / 9; slope beta * (-0.09 ln(10/9) - 0.01 + 0.01 - 0.1).
    ("discopop", {"discopop_tau": 1.0}, 0.1 * math.log(10 / 9) + 0.1,
     -(0.1 + 0.09 * math.log(10 / 9)) / 3, (0.1 + 0.09 * math.log(10 / 9)) / 3),
    # The chosen response has not fallen, so it is DPO.
    ("dpop", {}, math.log(10 / 9), -1 / 30, 1 / 30),
    # -ln(3/4) + (ln 4 + ln(4/3)) / 2; slopes beta * (-1/4 + 3/8) and beta / 8.
    ("nca_pair", {}, 1.5 * math.log(4 / 3) + 0.5 * math.log(4), 1 / 24, 1 / 24),
    ("bco_pair", {}, 2 * math.log(4 / 3), -1 / 12, 1 / 12),
    # Targets 3/2 and -3/2, log-ratios 3 L and -3 L.
    ("sppo_hard", {}, 2 * (3 * L - 1.5) ** 2, 2 * (3 * L - 1.5), -2 * (3 * L - 1.5)),
    # 1/4 + 1/4; the slope of a sigmoid at 3/4 or 1/4 is 3/16.
    ("apo_zero", {}, 0.5, -1 / 16, 1 / 16),
    # 3/4 + 1/10; slopes beta * (3/16 - 9/100) and beta * 9/100.
    ("apo_down", {}, 0.85, (3 / 16 - 0.09) / 3, 0.03),
    # Of one pair, sorted or not, it is DPO.
    ("aot", {}, math.log(10 / 9), -1 / 30, 1 / 30),
    ("aot_unpaired", QUARTER, 0.75 * math.log(10 / 9) + 0.25 * math.log(10), 0.05, -0.05),
    ("sft", {}, math.log(2), -1 / 3, 0.0),
    # -3 ln 2 and -12 ln 2 over three tokens, the second by half.
    ("unlikelihood", {"unlikelihood_alpha": 0.5}, -math.log(2), -1 / 3, 1 / 6),
    # beta * (-ln 2 + ln 4) = gamma, so the sigmoid is 1/2.
    ("simpo", {"simpo_gamma": math.log(2) / 3}, math.log(2), -1 / 18, 1 / 36),
    # beta * (-3 ln 2 + 12 ln 2) = ln 8: the sigmoid is 8/9. And half of sft.
    ("cpo", {"cpo_alpha": 0.5}, math.log(9 / 8) + 0.5 * math.log(2), -1 / 27 - 1 / 6, 1 / 27),
    # Odds 1 and 1/3: their ratio's sigmoid is 3/4. d log odds / d mean logp = 1 / (1 - p).
    ("orpo", {}, math.log(2) + math.log(4 / 3) / 3, -1 / 3 - 1 / 18, 1 / 54),
    # The offset is ln 3, of ln 9: sigmoid(ln 3) = 3/4.
    ("odpo", {"odpo_transform": "log"}, math.log(4 / 3), -1 / 12, 1 / 12),
    # Or 3 x (ln 9) / 3: sigmoid(0).
    ("odpo", {"odpo_alpha": math.log(9) / 3}, math.log(2), -1 / 6, 1 / 6),
    # 1/4 and 1/4, of chosen and rejected, without a baseline.
    ("kto", {}, 0.5, -1 / 16, 1 / 16),
    ("kto", {"desirable_weight": 2.0, "undesirable_weight": 0.5}, 0.625, -1 / 8, 1 / 32),
    ("bco", {}, 2 * math.log(4 / 3), -1 / 12, 1 / 12),
    # Of two responses, it is DPO.
    ("plackett_luce", {}, math.log(10 / 9), -1 / 30, 1 / 30),
]  # fmt: skip


@pytest.mark.parametrize("name, options, value, by_chosen, by_rejected", BY_HAND)
def test_value_and_slopes_by_hand(name, options, value, by_chosen, by_rejected):
    losses, slopes = loss_and_grads(LOSSES[name], one_pair(), 1 / 3, **options)
    torch.testing.assert_close(losses.item(), value, rtol=0, atol=1e-12)
    expected = torch.tensor([[by_chosen], [by_rejected]], dtype=torch.float64)
    torch.testing.assert_close(slopes, expected, rtol=0, atol=1e-12)


def some_pairs() -> PairLogps:
    """Four pairs in general position."""
    chosen = torch.tensor([-9.0, -4.0, -7.5, -6.1], dtype=torch.float64)
    rejected = torch.tensor([-8.2, -9.9, -5.0, -3.3], dtype=torch.float64)
    reference = (
        chosen + torch.tensor([1.3, -0.7, 0.4, -2.1]),
        rejected + torch.tensor([-0.2, 1.5, -1.1, 0.8]),
    )
    tokens = torch.tensor([3.0, 2.0, 4.0, 2.0]), torch.tensor([4.0, 3.0, 1.0, 2.0])
    facts = {
        "score_margins": torch.tensor([0.5, 2.0, 0.1, 0.0], dtype=torch.float64),
        "rankings": torch.tensor([3, 8, 3, 3]),
    }
    return PairLogps(
        chosen.requires_grad_(), rejected.requires_grad_(), *reference, *tokens, **facts
    )


@pytest.mark.parametrize("divergence", F_DIVERGENCES)
@pytest.mark.parametrize("name", [*LOSSES, *SUMS])
def test_gradient_is_that_of_finite_differences(name, divergence):
    loss, pairs = find_loss(name), some_pairs()
    options = {"f_divergence_type": divergence, "f_alpha_divergence_coef": 0.3}
    if "f_divergence_type" not in loss.options:
        options = {}

    def of_policy(chosen, rejected):
        return loss(replace(pairs, policy_chosen=chosen, policy_rejected=rejected), 0.3, **options)

    leaves = pairs.policy_chosen, pairs.policy_rejected
    assert torch.autograd.gradcheck(of_policy, leaves)


@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].of_margin])
def test_a_loss_that_takes_divergences_is_a_function_of_the_margin(name):
    """Both log-ratios shifted alike, as a function of the prompt shifts them: nothing changes.

    (For the two losses that average, of answers of one length, as the registry says.)
    """
    pairs = replace(some_pairs(), rejected_lengths=some_pairs().chosen_lengths)
    shifted = replace(
        pairs, policy_chosen=pairs.policy_chosen + 2, policy_rejected=pairs.policy_rejected + 2
    )
    torch.testing.assert_close(LOSSES[name](shifted, 0.3), LOSSES[name](pairs, 0.3))


@pytest.mark.parametrize("name", [*LOSSES, *SUMS])
def test_a_reference_free_loss_does_not_look_at_the_reference_and_the_others_do(name):
    loss, pairs = find_loss(name), some_pairs()
    other = replace(pairs, reference_chosen=pairs.reference_chosen + torch.tensor([1.0, -2, 3, -4]))
    same = bool(torch.equal(loss(pairs, 0.3), loss(other, 0.3)))
    assert same == loss.reference_free
    varies = "sft" in name or name in ("odpo", "kto", "bco")
    assert loss.has_initial_value == (not same and not varies)


@pytest.mark.parametrize("name", [*LOSSES, *SUMS])
def test_a_loss_that_divides_by_numbers_of_tokens_says_so(name):
    loss, pairs = find_loss(name), some_pairs()
    more = replace(pairs, chosen_lengths=3 * pairs.chosen_lengths)
    same = torch.equal(loss(pairs, 0.3), loss(more, 0.3))
    assert same == (not loss.uses_lengths)


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
    assert name in {case[0] for case in BY_HAND}
    assert loss.title and loss.formula and loss.rewards
    assert re.search(r"\b(19|20)\d\d\b", loss.citation) and re.fullmatch(
        r"\d{4}\.\d{5}", loss.arxiv
    )
    _, _, *options = inspect.signature(loss.function).parameters
    assert set(options) == set(loss.own_options)
    for option, default in loss.own_options.items():
        assert inspect.signature(loss.function).parameters[option].default == default
    assert "Source:" in loss.function.__doc__
    assert loss(one_pair(), 0.1).shape == (1,)
    with pytest.raises(TypeError):
        loss(one_pair(), 0.1, no_such_option=1.0)


def test_every_loss_of_trl_is_there_by_its_name():
    """The names of TRL 1.16's `loss_type`; its averaged `ipo` has a name of its own here."""
    names = """sigmoid hinge ipo exo_pair nca_pair robust bco_pair sppo_hard aot aot_unpaired
        apo_zero apo_down discopop sft sigmoid_norm""".split()
    assert set(names) <= set(LOSSES)
    assert {loss.trl for loss in LOSSES.values()} >= set(names)


def test_a_weighted_sum_adds_its_members_with_the_options_they_know():
    pairs, smooth = some_pairs(), {"label_smoothing": 0.1}
    total = find_loss("0.5 sigmoid+2*hinge + sft")(pairs, 0.3, **smooth)
    expected = 0.5 * LOSSES["sigmoid"](pairs, 0.3, **smooth) + 2 * LOSSES["hinge"](pairs, 0.3)
    torch.testing.assert_close(total, expected + LOSSES["sft"](pairs, 0.3))
    assert find_loss(" sigmoid ") is LOSSES["sigmoid"]
    assert find_loss("sigmoid + aot").couples_pairs and not find_loss("sigmoid + sft").couples_pairs
    assert "f_divergence_type" in find_loss("sigmoid + sft").options
    assert "f_divergence_type" not in find_loss("sigmoid + bco_pair").options


@pytest.mark.parametrize(
    "name, words",
    [
        ("dpo", "'dpo' is unknown. Use one of sigmoid"),
        ("sigmoid + dpo", "'dpo' is unknown"),
        ("sigmoid +", "'' is unknown"),
        ("sigmoid + -1 sft", "'-1 sft' is unknown"),
        ("sigmoid + 0 sft", "a weight is not above 0"),
    ],
)
def test_a_name_that_is_no_loss(name, words):
    with pytest.raises(ValueError, match=r"^loss=") as error:
        find_loss(name)
    assert words in str(error.value)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("beta", [0, -0.1, math.nan, math.inf])
def test_beta_out_of_range(name, beta):
    with pytest.raises(ValueError, match=r"beta=.*must be a finite number > 0.*closer"):
        LOSSES[name](one_pair(), beta)


@pytest.mark.parametrize("smoothing", [-0.1, 0.5, math.nan])
def test_label_smoothing_out_of_range(smoothing):
    with pytest.raises(ValueError, match=r"label_smoothing=.*\[0, 0\.5\)"):
        dpo_loss(at(0.0), 0.1, smoothing)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="would mix the pairs"):
        PairLogps(torch.zeros(3), torch.zeros(3), torch.zeros(3, 1), torch.zeros(3))
