"""Which losses have pi* as their optimum: found by minimising each over expected labels."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from expected_labels import minimised, with_expected_labels

from dpo_lab.objective.optimum import exact_kl, optimal_logps
from dpo_lab.objective.pair_logps import PairLogps
from dpo_lab.objective.registry import LOSSES, find_loss
from dpo_lab.training.config import TrainConfig

BETA = 0.7
REFERENCE = torch.tensor([0.4, 0.1, 0.2, 0.25, 0.05], dtype=torch.float64).log()
REWARDS = torch.tensor([0.0, 1.2, -0.8, 0.5, 0.9], dtype=torch.float64)
LENGTHS = torch.tensor([2.0, 3.0, 1.0, 2.0, 4.0], dtype=torch.float64)


CASES = {name: {} for name in LOSSES} | {
    "sigmoid, smoothed": {"label_smoothing": 0.1},
    "robust, smoothed": {"label_smoothing": 0.1},
    "sigmoid, forward KL": {"f_divergence_type": "forward_kl"},
    "sigmoid + 0.2 sft": {},
}


@pytest.mark.parametrize("case", CASES)
def test_pi_star_is_claimed_for_the_losses_that_end_there_and_no_others(case) -> None:
    name, options = case.split(",")[0], CASES[case]
    claimed = TrainConfig(loss=name, beta=BETA, **options).aims_at_optimum
    found = find_loss(name)
    if found.uses_scores or (found.couples_pairs and not found.ranked):
        # It needs scores, or its value is of a place in the order, not of a pair: no label's
        # probability weighs it.
        assert not claimed
        return
    loss = partial(find_loss(name), beta=BETA, **options)
    reached = minimised(with_expected_labels(loss, REFERENCE, REWARDS, LENGTHS), REFERENCE)
    distance = exact_kl(reached, _star()).item()
    assert (distance < 1e-6) == claimed, f"{distance:.2g} nats from pi*"


def _star() -> torch.Tensor:
    return optimal_logps(REFERENCE, REWARDS, BETA)


def test_what_cuts_the_log_probabilities_changes_the_optimum_too() -> None:
    assert not TrainConfig(ld_alpha=0.5).aims_at_optimum
    assert TrainConfig(ld_alpha=1.0).aims_at_optimum


def test_the_margin_that_exo_ends_at_by_hand() -> None:
    """KL(q || label), over labels of probability p: where logit q = (2p - 1) log((1 - e) / e).

    It is -H(q) - q [p log(1-e) + (1-p) log e] - (1-q) [p log e + (1-p) log(1-e)]; its slope by q,
    logit q - (2p - 1) log((1-e) / e), is zero there. A Bradley-Terry reward has logit q = logit p.
    """
    p, epsilon = 0.8, 0.1
    zero = torch.zeros(1, dtype=torch.float64)
    margin = zero.clone().requires_grad_()

    def exo(sign: int) -> torch.Tensor:
        return LOSSES["exo_pair"](
            PairLogps(sign * margin, zero, zero, zero), BETA, label_smoothing=epsilon
        )

    descent = torch.optim.LBFGS([margin], 1, 200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        descent.zero_grad()
        value = (p * exo(1) + (1 - p) * exo(-1)).sum()
        value.backward()
        return value

    descent.step(closure)
    wanted = 0.6 * math.log(0.9 / 0.1)
    assert BETA * margin.item() == pytest.approx(wanted, abs=1e-5)
    assert abs(wanted - math.log(0.8 / 0.2)) > 0.06
