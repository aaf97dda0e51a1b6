"""Win rate at equal lengths and without a place of advantage: logistic regression on the votes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dpo_lab.analysis.win_rate import Votes
from dpo_lab.training.outcome import Z95, MeanCI

RIDGE = 0.1
"""Penalty a vote of a prompt, so that effects stay finite where they explain every vote."""
_MOST_STEPS = 50


@dataclass(frozen=True)
class ControlledWinRate:
    """The win rate of A over B with the judge's preference for length and place taken out.

    Attributes:
        rate: Win rate at equal lengths and without a place of advantage.
        length: Effect of length, logits at a much longer answer; above 0 longer answers win. None
            if all answers are equally long.
        place: Effect of being shown first, logits; none if the judge sees no order.
    """

    rate: MeanCI
    length: MeanCI | None
    place: MeanCI | None


def controlled_win_rate(votes: Votes) -> ControlledWinRate:
    """Win rate with the effects of length and place removed.

    Fitted is `logit P(A wins) = theta + phi tanh(dl / std(dl)) + pi o` with dl the extra length of
    A's answer and o its place (1 if shown first, -1 if second, 0 in no order); the win rate is
    sigmoid(theta). Averaging both orders does not remove a bias of place: it moves the rate
    towards 0.5.

    Standard errors are clustered by prompt (sandwich). In them half a prompt won and half a prompt
    lost are added, as in `share_interval`, and half a prompt decided by each bias alone, so that
    intervals stay open where all votes are alike.

    Raises:
        ValueError: If there are no votes.

    Source:
        Dubois et al. 2024, "Length-Controlled AlpacaEval" (arXiv 2404.04475), without its term for
        the prompt's difficulty, which takes the votes on many models; the place as in Davidson and
        Beaver 1977. Clustered errors: Liang and Zeger 1986.

    Note:
        tanh and its scale are the paper's: from some length on, longer makes no more difference.
        Where prompts differ in how much better A is, the rate is still their mean, while the
        effects of length and place come out smaller than they are on a single prompt.
    """
    if not len(votes):
        raise ValueError("no votes: a win rate needs at least one. Ask the judge first.")
    design, names = _design(votes)
    groups, wins = votes.groups, np.asarray(votes.wins, dtype=float)
    prompts = int(groups.max()) + 1
    effects, covariance = _fit(design, wins, groups)
    errors = np.sqrt(np.diag(covariance))
    low, mean, high = (effects + sign * Z95 * errors for sign in (-1, 0, 1))
    found = {
        name: MeanCI(float(mean[at]), float(low[at]), float(high[at]), prompts)
        for at, name in enumerate(names)
    }
    ends = (float(_sigmoid(each[0])) for each in (mean, low, high))
    return ControlledWinRate(MeanCI(*ends, prompts), found.get("length"), found.get("place"))


def _design(votes: Votes) -> tuple[np.ndarray, list[str]]:
    """`(votes, effects)`: a one, the length and the place, as far as they vary."""
    extra = np.asarray(votes.extra_length, dtype=float)
    columns, names = [np.ones(len(votes))], ["theta"]
    if (extra != 0).any():
        scale = extra.std() or np.abs(extra).max()
        columns.append(np.tanh(extra / scale))
        names.append("length")
    if {1, -1} <= set(votes.place):
        columns.append(np.asarray(votes.place, dtype=float))
        names.append("place")
    return np.stack(columns, axis=1), names


def _fit(design: np.ndarray, wins: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Effects of the penalised logistic regression by Newton's method, and their covariance."""
    prompts, size = int(groups.max()) + 1, design.shape[1]
    half = len(wins) / prompts / 2  # votes of half a prompt
    ridge = 2 * half * RIDGE * np.eye(size)
    effects = np.zeros(size)
    for _ in range(_MOST_STEPS):
        rates = _sigmoid(design @ effects)
        step = np.linalg.solve(
            _information(design, rates) + ridge, design.T @ (wins - rates) - ridge @ effects
        )
        # The objective is concave; a bounded step cannot run away on flat ends.
        effects = effects + step / max(1.0, np.abs(step).max() / 2)
        if np.abs(step).max() < 1e-10:
            break
    rates, level = _sigmoid(design @ effects), float(_sigmoid(effects[0]))
    scores = np.zeros((prompts, size))
    np.add.at(scores, groups, design * (wins - rates)[:, None])
    spread = scores.T @ scores * (prompts / max(1, prompts - 1))
    spread[0, 0] += half**2 * (level**2 + (1 - level) ** 2)
    spread[1:, 1:] += half**2 / 2 * np.eye(size - 1)
    bread = np.linalg.inv(_information(design, rates) + ridge)
    return effects, bread @ spread @ bread


def _information(design: np.ndarray, rates: np.ndarray) -> np.ndarray:
    return design.T @ (design * (rates * (1 - rates))[:, None])


def _sigmoid(x: np.ndarray | float) -> np.ndarray:
    return 0.5 * (1 + np.tanh(np.asarray(x) / 2))
