from __future__ import annotations

import math

import pytest

from dpo_lab.models.sampling import Completion
from dpo_lab.training import TrainConfig, prepare
from dpo_lab.training.answer_form import AnswerForm, before_and_after, distinct, repetition


def test_repetition_by_hand() -> None:
    """1 2 1 2 1 has the 2-grams 12 21 12 21: two distinct of four."""
    assert repetition([1, 2, 1, 2, 1], 2) == 0.5
    assert repetition([1, 2, 1, 2, 1], 1) == pytest.approx(3 / 5)
    assert repetition([1, 2, 3], 1) == 0 and repetition([7, 7, 7, 7], 3) == 0.5
    assert repetition([1, 2], 3) == 0 and repetition([], 1) == 0
    with pytest.raises(ValueError, match="n=0"):
        repetition([1], 0)


def test_distinct_by_hand() -> None:
    assert distinct([[1, 2], [1, 3], [2]], 1) == pytest.approx(3 / 5)
    assert distinct([[1, 2], [1, 2]], 2) == 0.5
    assert math.isnan(distinct([[1]], 2))


def _answer(ids: tuple[int, ...], ended: bool) -> Completion:
    return Completion((5,), ids, "", ended)


def test_the_form_of_answers_by_hand() -> None:
    """Half say `7 7 7 end`, half `7 8` and reach the limit: lengths 3 and 2."""
    answers = [_answer((7, 7, 7, 1), True), _answer((7, 8), False)] * 50
    form = AnswerForm.of(answers, n=1)
    assert form.length.mean == pytest.approx(2.5)
    spread = 1.959964 * math.sqrt(0.25 * 100 / 99) / 10
    assert form.length.high - form.length.mean == pytest.approx(spread)
    assert form.repetition.mean == pytest.approx((2 / 3 + 0) / 2)
    assert form.ended.mean == 0.5 and form.ended.n == 100
    # Wilson at 50 of 100.
    assert (form.ended.low, form.ended.high) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert form.distinct.n == 10 and 0 < form.distinct.mean < 1
    assert AnswerForm.of(answers, n=2).repetition.mean == pytest.approx(0.25)


def test_answers_that_are_all_alike_have_no_spread_and_too_few_are_refused() -> None:
    form = AnswerForm.of([_answer((7, 8, 1), True)] * 20, n=3)
    assert (form.repetition.low, form.repetition.high) == (0, 0)
    assert (form.length.low, form.length.high) == (2, 2) and form.ended.low < 1
    with pytest.raises(ValueError, match="19 answers: intervals need at least 20"):
        AnswerForm.of([_answer((1,), True)] * 19)


def test_before_training_both_give_the_same_answers() -> None:
    config = TrainConfig(steps=1, eval_every=0, eval_pairs=0, held_out=0.0, limit=32)
    job = prepare(config)
    before, after = before_and_after(job, ["the acting felt"] * 20, max_new_tokens=8, seed=3)
    assert before == after and len({answer.text for answer in before}) > 3
