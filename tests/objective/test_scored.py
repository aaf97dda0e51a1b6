"""Losses of scored and of ranked responses, by hand and beside the probability of a ranking."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from dpo_lab.objective.pair_logps import PairLogps
from dpo_lab.objective.registry import LOSSES, loss_and_grads


def pairs_of_ranking(rewards: list[float], first: int = 0) -> PairLogps:
    """All pairs of responses in their order, with these log-ratios; references are -4."""
    better, worse = zip(*combinations(range(len(rewards)), 2), strict=True)
    ratios = torch.tensor(rewards, dtype=torch.float64)
    chosen, rejected = ratios[list(better)], ratios[list(worse)]
    four = torch.full_like(chosen, -4)
    rankings = first + torch.tensor(better)
    return PairLogps(chosen - 4, rejected - 4, four, four, rankings=rankings)


def test_a_ranking_of_three_by_hand():
    """Rewards ln 3, ln 2, 0: 3/6 that the first is best, then 2/3 that the second is."""
    pairs = pairs_of_ranking([math.log(3) / 0.5, math.log(2) / 0.5, 0.0])
    losses = LOSSES["plackett_luce"](pairs, 0.5)
    # The first step's ln 2 is shared by its two pairs.
    expected = [math.log(2) / 2, math.log(2) / 2, math.log(3 / 2)]
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_rankings_in_one_batch_are_the_probabilities_of_their_orders(scale):
    """Eq. 18: a product of softmaxes over what is left; also where exponentials would overflow."""
    rankings = [[0.3, -1.0, 2.0, 0.7], [1.5, 1.4], [-2.0, 0.0, 1.0]]
    rankings = [[scale * reward for reward in ranking] for ranking in rankings]
    parts = [pairs_of_ranking(ranking, 10 * i) for i, ranking in enumerate(rankings)]
    whole = PairLogps.joined(parts)
    order = torch.randperm(len(whole.margins), generator=torch.Generator().manual_seed(0))
    shuffled = PairLogps(
        *(getattr(whole, name)[order] for name in list(vars(whole))[:4]),
        rankings=whole.rankings[order],
    )
    expected = torch.zeros((), dtype=torch.float64)
    for ranking in rankings:
        rewards = 0.7 * torch.tensor(ranking, dtype=torch.float64)
        for place in range(len(ranking) - 1):
            expected -= rewards[place:].log_softmax(0)[0]
    torch.testing.assert_close(LOSSES["plackett_luce"](shuffled, 0.7).sum(), expected)
    _, slopes = loss_and_grads(LOSSES["plackett_luce"], shuffled, 0.7)
    assert slopes.isfinite().all()


def test_an_offset_is_a_shift_of_the_margin():
    """By alpha x difference / beta: there the loss and its slope are DPO's, and DPO at alpha 0."""
    ratios = torch.linspace(-3, 3, 7, dtype=torch.float64)
    zero, scores = torch.zeros_like(ratios), torch.tensor([0.0, 0.5, 1, 2, 3, 4, 5.0]).double()
    pairs = PairLogps(ratios, zero, zero, zero, score_margins=scores)
    moved = PairLogps(ratios - 0.4 * scores / 0.2, zero, zero, zero)
    odpo = loss_and_grads(LOSSES["odpo"], pairs, 0.2, odpo_alpha=0.4)
    torch.testing.assert_close(odpo, loss_and_grads(LOSSES["sigmoid"], moved, 0.2))
    for transform in ("identity", "log"):
        plain = LOSSES["odpo"](pairs, 0.2, odpo_alpha=0.0, odpo_transform=transform)
        torch.testing.assert_close(plain, LOSSES["sigmoid"](pairs, 0.2))
    tied = loss_and_grads(LOSSES["odpo"], pairs, 0.2, odpo_transform="log")
    assert tied[0][0] == 0 and tied[1][0, 0] == 0  # a tie asks for nothing


REFUSED = [
    (None, {}, "score_margins=None: this loss needs the scores of both"),
    ([math.nan], {}, "score_margins=None: this loss needs the scores of both"),
    ([-1.0], {"odpo_transform": "log"}, "odpo_transform='log': a score difference is -1"),
    ([1.0], {"odpo_transform": "square"}, "odpo_transform='square': unknown"),
    ([1.0], {"odpo_alpha": -1.0}, "odpo_alpha=-1.0: must be a finite number >= 0"),
]


@pytest.mark.parametrize("scores, options, words", REFUSED)
def test_what_has_no_offset_is_refused(scores, options, words):
    zero = torch.zeros(1)
    margins = None if scores is None else torch.tensor(scores)
    with pytest.raises(ValueError) as error:
        LOSSES["odpo"](PairLogps(zero, zero, zero, zero, score_margins=margins), 0.1, **options)
    assert str(error.value).startswith(words)


def test_a_label_turned_around_turns_the_scores_around():
    pairs = PairLogps(*torch.zeros(4, 1), score_margins=torch.tensor([2.0]))
    assert pairs.turned.score_margins.item() == -2
