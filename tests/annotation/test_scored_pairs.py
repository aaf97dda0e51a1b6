from __future__ import annotations

import math

import pytest

from dpo_lab.annotation.scored_pairs import completion_pairs
from dpo_lab.data.reviews import reward as true_reward

PROMPTS = ["the acting felt", "the plot was"] * 40


def test_four_answers_make_at_most_six_pairs_and_the_better_one_wins(micro) -> None:
    rows = completion_pairs(micro, PROMPTS, true_reward, labels="better", max_new_tokens=5, seed=1)
    assert 4 * len(PROMPTS) < len(rows) <= 6 * len(PROMPTS)
    assert all(true_reward("", row["chosen"]) > true_reward("", row["rejected"]) for row in rows)
    assert {row["prompt"] for row in rows} == set(PROMPTS)
    again = completion_pairs(micro, PROMPTS, true_reward, labels="better", max_new_tokens=5, seed=1)
    assert rows == again


def test_sampled_labels_are_wrong_as_often_as_bradley_terry_says(micro) -> None:
    rows = completion_pairs(micro, PROMPTS * 5, true_reward, max_new_tokens=5, seed=2)
    margins = [true_reward("", row["chosen"]) - true_reward("", row["rejected"]) for row in rows]
    wrong = sum(margin < 0 for margin in margins)
    chances = [1 / (1 + math.exp(abs(margin))) for margin in margins if margin]
    spread = math.sqrt(sum(chance * (1 - chance) for chance in chances))
    assert wrong == pytest.approx(sum(chances), abs=3 * spread) and wrong > 0


def test_labels_that_there_are_not_are_refused(micro) -> None:
    with pytest.raises(ValueError, match="labels='best': must be 'sampled' or 'better'"):
        completion_pairs(micro, PROMPTS[:1], true_reward, labels="best")
