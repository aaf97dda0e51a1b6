"""Win rates of judges whose bias is known: intervals that hold the truth as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dpo_lab.analysis.controlled_win_rate import RIDGE, controlled_win_rate
from dpo_lab.analysis.judge_agreement import agreement
from dpo_lab.analysis.win_rate import (
    Votes,
    detectable_difference,
    prompts_needed,
    share_interval,
    win_rate,
)
from dpo_lab.training.outcome import MeanCI

TRIALS = 400
NOMINAL = 0.95
SLACK = 3 * math.sqrt(NOMINAL * (1 - NOMINAL) / TRIALS)
"""Three binomial standard errors of a coverage that is measured in `TRIALS` trials."""


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def judged(
    generator,
    n: int,
    *,
    quality: float = 0.0,
    first: float = 0.0,
    longer: float = 0.0,
    a_longer: float = 0.0,
    spread: float = 0.0,
) -> Votes:
    """Votes in both orders on n prompts, by a judge whose logits are the sum of these effects."""
    extra = np.repeat(generator.normal(a_longer, 1, n), 2)
    place = np.tile([1, -1], n)
    length = np.tanh(extra / extra.std())
    quality = quality + np.repeat(spread * generator.normal(size=n), 2)  # of each prompt
    logits = quality + longer * length + first * place
    wins = (generator.random(2 * n) < sigmoid(logits)).astype(float)
    return Votes(np.repeat(np.arange(n), 2), wins, place, extra)


def holds(interval: MeanCI, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def test_a_win_rate_by_hand():
    """Three prompts in both orders: A twice (1), once each to the first shown (0.5), B twice (0).

    The mean is 1/2. Shown first and chosen: prompt 1 half, prompt 2 both, prompt 3 half: 2/3. One
    of three flips. The longer answer: A's by 5 in prompt 1 (won), equal in 2, B's in 3 (won): 1.
    """
    votes = Votes([1, 1, 2, 2, 3, 3], [1, 1, 1, 0, 0, 0], [1, -1] * 3, [5, 5, 0, 0, -2, -2])
    found = win_rate(votes)
    assert (found.won, found.tied, found.lost) == (1, 1, 1)
    assert found.rate.mean == 0.5 and found.rate.n == 3
    assert found.first.mean == pytest.approx(2 / 3) and found.flips.mean == pytest.approx(1 / 3)
    assert found.longer.mean == 1 and found.longer.n == 2
    # The variance with half a value at each end: (1/4 + 0 + 1/4 + 1/4) / 4.
    assert found.detectable == pytest.approx(2.8016 * math.sqrt(3 / 16) / math.sqrt(3), rel=1e-4)


def test_votes_without_an_order_say_nothing_about_place():
    found = win_rate(Votes([1, 2, 3], [1, 0.5, 1], [0, 0, 0], [1, 0, -1]))
    assert found.rate.mean == pytest.approx(5 / 6) and found.first is None and found.flips is None
    assert found.longer.mean == 0.5 and found.longer.n == 2


def test_votes_of_one_prompt_are_one_value():
    once = Votes([1, 2], [1, 0], [1, -1], [0, 0])
    often = Votes([1, 2] * 50, [1, 0] * 50, [1, -1] * 50, [0] * 100)
    assert win_rate(often).rate == win_rate(once).rate
    assert win_rate(often).flips is None, "no prompt was asked in both orders"


@pytest.mark.parametrize("wins", [[1.0] * 7 + [0.0] * 3, [1.0] * 10, [0.0] * 10, [1.0]])
def test_of_zeros_and_ones_the_interval_is_wilsons(wins):
    found, wilson = share_interval(wins), MeanCI.of_share(sum(wins) / len(wins), len(wins))
    assert found.low == pytest.approx(wilson.low) and found.high == pytest.approx(wilson.high)


def test_ties_narrow_the_interval_and_never_close_it():
    few, ties = share_interval([1.0, 0.0] * 20), share_interval([0.5] * 40)
    mixed = share_interval([1.0, 0.0] * 10 + [0.5] * 20)
    widths = [each.high - each.low for each in (few, mixed, ties)]
    assert widths[0] > widths[1] > widths[2] > 0.02
    assert share_interval([]) is None


@pytest.mark.parametrize("n", [12, 100])
@pytest.mark.parametrize("shares", [(0.5, 0.0, 0.5), (0.6, 0.3, 0.1), (0.85, 0.1, 0.05)])
def test_intervals_hold_the_truth_at_their_rate(n, shares):
    """Wins, ties and losses; at n = 12 only from below, since there are few possible intervals."""
    generator = np.random.default_rng(0)
    truth = shares[0] + shares[1] / 2
    drawn = generator.choice([1.0, 0.5, 0.0], p=shares, size=(TRIALS, n))
    covered = np.mean([holds(share_interval(values), truth) for values in drawn])
    assert covered >= NOMINAL - SLACK
    assert n == 12 or covered <= NOMINAL + SLACK


def test_a_judge_that_prefers_the_first_is_seen_and_corrected():
    """Logits 0.8 for A and 1 for the first shown.

    Asked in one order A seems to win 86 or 45 % of the time, and 65 % on average over both orders,
    though without the bias it is 69 %.
    """
    generator, quality, bias = np.random.default_rng(1), 0.8, 1.0
    orders = (sigmoid(quality + bias) + sigmoid(quality - bias)) / 2
    covered = {"both orders": 0, "controlled": 0, "place": 0, "first": 0}
    for _ in range(TRIALS):
        votes = judged(generator, 150, quality=quality, first=bias)
        plain, controlled = win_rate(votes), controlled_win_rate(votes)
        covered["both orders"] += holds(plain.rate, orders)
        covered["controlled"] += holds(controlled.rate, sigmoid(quality))
        covered["place"] += holds(controlled.place, bias)
        first = (sigmoid(quality + bias) + 1 - sigmoid(quality - bias)) / 2
        covered["first"] += holds(plain.first, first)
        assert plain.first.low > 0.5 and controlled.place.low > 0, "the bias is seen"
        assert plain.flips.low > 0.2
    for what, count in covered.items():
        assert abs(count / TRIALS - NOMINAL) <= SLACK, what
    assert abs(orders - sigmoid(quality)) > 0.03, "averaging the orders is not enough"


def test_a_judge_that_prefers_the_longer_is_seen_and_corrected():
    """A is no better, only longer: the raw win rate is far above 0.5, the controlled is not."""
    generator, bias = np.random.default_rng(2), 1.5
    covered, misled = {"controlled": 0, "length": 0}, 0
    for _ in range(TRIALS):
        votes = judged(generator, 200, longer=bias, a_longer=0.8)
        plain, controlled = win_rate(votes), controlled_win_rate(votes)
        covered["controlled"] += holds(controlled.rate, 0.5)
        covered["length"] += holds(controlled.length, bias)
        misled += not holds(plain.rate, 0.5)
        assert controlled.length.low > 0 and plain.longer.low > 0.5, "the bias is seen"
    assert misled / TRIALS > 0.95, "the raw rate takes the longer model for the better one"
    for what, count in covered.items():
        assert abs(count / TRIALS - NOMINAL) <= SLACK, what


def test_both_biases_are_removed_where_prompts_differ():
    """The quality varies by prompt, with 2 logits: the true rate is the mean of its sigmoid."""
    generator, held, misled = np.random.default_rng(8), 0, 0
    truth = sigmoid(0.8 + 2 * np.random.default_rng(9).normal(size=400_000)).mean()
    for _ in range(TRIALS):
        bias = {"first": 1.0, "longer": 1.5, "a_longer": 0.8}
        votes = judged(generator, 200, quality=0.8, spread=2.0, **bias)
        held += holds(controlled_win_rate(votes).rate, truth)
        misled += not holds(win_rate(votes).rate, truth)
    assert held / TRIALS >= NOMINAL - SLACK and misled / TRIALS > 0.5


def test_a_judge_without_bias_is_not_accused():
    generator, accused = np.random.default_rng(3), 0
    for _ in range(TRIALS):
        votes = judged(generator, 100, quality=0.5, a_longer=0.5)
        accused += not holds(controlled_win_rate(votes).place, 0)
    assert accused / TRIALS <= 1 - NOMINAL + SLACK


def test_the_regression_is_the_maximum_that_autograd_finds():
    """The penalised likelihood written with torch, climbed by L-BFGS; errors from its Hessian."""
    votes = judged(np.random.default_rng(4), 40, quality=0.7, first=0.5, longer=1, a_longer=1)
    wins = torch.tensor(votes.wins, dtype=torch.float64)
    wins[::7] = 0.5
    extra = torch.tensor(votes.extra_length)
    design = torch.stack(
        [
            torch.ones_like(wins),
            torch.tanh(extra / extra.std(unbiased=False)),
            torch.tensor(votes.place).double(),
        ],
        dim=1,
    )

    def negative(effects):
        rows = torch.nn.functional.binary_cross_entropy_with_logits(
            design @ effects, wins, reduction="sum"
        )
        return rows + 2 * RIDGE / 2 * effects.square().sum()  # two votes a prompt

    effects = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    climb = torch.optim.LBFGS([effects], max_iter=200, tolerance_grad=1e-12, tolerance_change=0)

    def closure():
        climb.zero_grad()
        loss = negative(effects)
        loss.backward()
        return loss

    climb.step(closure)
    best = effects.detach()
    bread = torch.autograd.functional.hessian(negative, best).inverse()
    scores = (wins - (design @ best).sigmoid())[:, None] * design
    clusters = scores.reshape(40, 2, 3).sum(1)
    rate = best[0].sigmoid()
    meat = clusters.T @ clusters * 40 / 39
    # Half a prompt is one vote: won and lost; and decided by a bias alone, where it is off by half.
    meat += torch.diag(torch.stack([(1 - rate) ** 2 + rate**2, *torch.full((2,), 0.5)]))
    errors = (bread @ meat @ bread).diag().sqrt()

    found = controlled_win_rate(Votes(votes.prompts, wins.tolist(), votes.place, extra.tolist()))
    assert found.rate.mean == pytest.approx(rate.item(), abs=1e-8)
    for at, effect in ((1, found.length), (2, found.place)):
        assert effect.mean == pytest.approx(best[at].item(), abs=1e-7)
        assert effect.high - effect.mean == pytest.approx(1.959964 * errors[at].item(), abs=1e-6)
    low = (best[0] - 1.959964 * errors[0]).sigmoid().item()
    assert found.rate.low == pytest.approx(low, abs=1e-7)


@pytest.mark.parametrize(("prompts", "votes"), [(50, 1), (50, 2), (5, 20), (200, 2)])
def test_a_model_that_always_wins_has_a_finite_rate_and_an_open_interval(prompts, votes):
    """Its interval begins about where Wilson's does, however often each prompt is asked."""
    n = prompts * votes
    found = controlled_win_rate(Votes([*range(prompts)] * votes, [1.0] * n, [0] * n, [0.0] * n))
    assert 0.94 < found.rate.mean < 1 and found.length is None and found.place is None
    assert found.rate.low == pytest.approx(MeanCI.of_share(1, prompts).low, abs=0.022)


def test_an_effect_that_no_vote_shows_is_not_known_to_be_none():
    votes = Votes([1, 1, 2, 2, 3, 3], [1] * 6, [1, -1] * 3, [1, 1, -3, -3, 2, 2])
    place = controlled_win_rate(votes).place
    assert place.mean == pytest.approx(0, abs=1e-9) and place.high - place.low > 0.5


def test_effects_are_finite_where_length_explains_every_vote():
    separated = controlled_win_rate(judged(np.random.default_rng(5), 30, longer=200))
    assert math.isfinite(separated.length.mean) and separated.length.mean > 2


def test_without_bias_the_regression_gives_the_plain_rate():
    """An intercept alone fits the mean, but for the small penalty, also of few prompts."""
    votes = Votes([1, 2, 3, 4, 5] * 20, [1.0] * 63 + [0.0] * 37, [0] * 100, [0] * 100)
    assert controlled_win_rate(votes).rate.mean == pytest.approx(0.63, abs=0.012)


def test_what_is_detectable_is_detected_in_four_of_five_trials():
    n, generator = 200, np.random.default_rng(6)
    distance = detectable_difference(n)
    assert distance == pytest.approx(0.0991, abs=5e-4)
    assert prompts_needed(distance) in (n, n + 1)
    wins = generator.random((1000, n)) < 0.5 + distance
    seen = np.mean([share_interval(row.astype(float)).low > 0.5 for row in wins])
    assert abs(seen - 0.8) <= 3 * math.sqrt(0.8 * 0.2 / 1000) + 0.01  # a share of 1/200 is a step


def test_agreement_by_hand():
    """Of ten: both A 4, both B 3, A against B 2, B against A 1.

    Observed is 0.7; by chance 0.6 x 0.5 + 0.4 x 0.5 = 0.5, so kappa is 0.4.
    """
    first = ["A"] * 6 + ["B"] * 4
    second = ["A"] * 4 + ["B"] * 2 + ["B"] * 3 + ["A"]
    found = agreement(first, second)
    assert found.share.mean == 0.7 and found.kappa.mean == pytest.approx(0.4)
    assert found.kappa.low < 0 < found.kappa.high <= 1
    assert agreement(["A", "B"], ["A", "B"]).kappa.mean == 1
    often = agreement(first * 10, second * 10, list(range(10)) * 10)
    assert often == found, "ten verdicts on a prompt are one"
    always = agreement(["A"] * 5, ["A"] * 5)
    assert always.share.mean == 1 and math.isnan(always.kappa.mean)


def test_judges_who_toss_coins_agree_by_chance_alone():
    generator, covered = np.random.default_rng(7), 0
    for _ in range(TRIALS):
        one, other = generator.choice(["A", "B", "tie"], p=[0.6, 0.3, 0.1], size=(2, 120))
        covered += holds(agreement(one, other).kappa, 0)
    assert abs(covered / TRIALS - NOMINAL) <= SLACK


def test_votes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="outside"):
        Votes([1], [2.0], [1], [0])
    with pytest.raises(ValueError, match="one value a vote"):
        Votes([1, 2], [1.0], [1], [0])
    with pytest.raises(ValueError, match="no votes"):
        win_rate(Votes([], [], [], []))
    with pytest.raises(ValueError, match="no votes"):
        controlled_win_rate(Votes([], [], [], []))
    with pytest.raises(ValueError, match="above 0"):
        prompts_needed(0)
    with pytest.raises(ValueError, match="as many of both"):
        agreement(["A"], [])
