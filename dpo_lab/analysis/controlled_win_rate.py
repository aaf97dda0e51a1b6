"""Win rate at equal lengths and without a place of advantage: logistic regression on the votes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dpo_lab.analysis.win_rate import Votes
from dpo_lab.training.outcome import Z95, MeanCI

RIDGE = 0.1
"""Penalty on the bias terms, so that they stay finite where they explain every vote."""
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

    Half a prompt won and half a prompt lost are added, so that theta is finite where A wins always;
    the ridge is on phi and pi alone. Standard errors are clustered by prompt (sandwich).

    Raises:
        ValueError: If there are no votes.

    Source:
        Dubois et al. 2024, "Length-Controlled AlpacaEval" (arXiv 2404.04475), without its term for
        the prompt's difficulty, which takes the votes on many models; the place as in Davidson and
        Beaver 1977. Clustered errors: Liang and Zeger 1986.

    Note:
        tanh and its scale are the paper's: from some length on, longer makes no more difference.
    """
    if not len(votes):
        raise ValueError("no votes: a win rate needs at least one. Ask the judge first.")
    design, names = _design(votes)
    groups, wins = votes.groups, np.asarray(votes.wins, dtype=float)
    prompts = int(groups.max()) + 1
    # The halves of a prompt: at equal lengths, in no order, as heavy as half of the others' votes.
    half = len(wins) / prompts / 2
    design = np.vstack([design, np.eye(2, design.shape[1])[[0, 0]]])
    wins = np.append(wins, [1.0, 0.0])
    weights = np.append(np.ones(len(votes)), [half, half])
    groups = np.append(groups, [prompts, prompts + 1])
    effects, covariance = _fit(design, wins, weights, groups)
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


def _fit(
    design: np.ndarray, wins: np.ndarray, weights: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Effects of the penalised logistic regression by Newton's method, and their covariance."""
    ridge = RIDGE * np.eye(design.shape[1])
    ridge[0, 0] = 0.0
    effects = np.zeros(design.shape[1])
    for _ in range(_MOST_STEPS):
        residuals, hessian = _slopes(design, wins, weights, effects, ridge)
        gradient = design.T @ residuals - ridge @ effects
        step = np.linalg.solve(hessian, gradient)
        # The objective is concave; a bounded step cannot run away on flat ends.
        effects = effects + step / max(1.0, np.abs(step).max() / 2)
        if np.abs(step).max() < 1e-10:
            break
    residuals, hessian = _slopes(design, wins, weights, effects, ridge)
    sums = np.zeros((int(groups.max()) + 1, design.shape[1]))
    np.add.at(sums, groups, design * residuals[:, None])
    bread = np.linalg.inv(hessian)
    return effects, bread @ (sums.T @ sums) @ bread


def _slopes(
    design: np.ndarray,
    wins: np.ndarray,
    weights: np.ndarray,
    effects: np.ndarray,
    ridge: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted residuals `(votes,)`, and the negative Hessian `(effects, effects)`."""
    rates = _sigmoid(design @ effects)
    return weights * (wins - rates), (
        design.T @ (design * (weights * rates * (1 - rates))[:, None]) + ridge
    )


def _sigmoid(x: np.ndarray | float) -> np.ndarray:
    return 0.5 * (1 + np.tanh(np.asarray(x) / 2))
