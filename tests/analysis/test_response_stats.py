from __future__ import annotations

import math
import warnings

import pytest

from dpo_lab import TrainConfig, prepare
from dpo_lab.analysis.response_stats import AnswerForm, before_and_after, distinct, repetition
from dpo_lab.models.sampling import Completion
from dpo_lab.ui.figures.responses import form_figure, form_table


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


def test_the_interval_of_distinct_is_students_over_ten_blocks() -> None:
    """Blocks of two answers each: `7` twice has 1 of 2 distinct, `7 8` has both.

    Student's t at 97.5 % with 9 degrees of freedom is 2.2622.
    """
    answers = [_answer((7,), False)] * 10 + [_answer((8,), False)] * 10
    found = AnswerForm.of(answers, n=1).distinct
    mixed = round((found.mean - 0.5) * 20)
    assert 0 < mixed < 10 and found.mean == pytest.approx(0.5 + mixed / 20)
    variance = (mixed * (10 - mixed) / 100) * 0.25 * 10 / 9
    assert found.high - found.mean == pytest.approx(2.2622 * math.sqrt(variance / 10), rel=1e-4)


def test_prompts_that_come_round_every_ten_answers_are_no_blocks() -> None:
    """Each prompt has one answer of its own: a block to each would call every one a repetition."""
    answers = [_answer((10 + place % 10,), False) for place in range(100)]
    found = AnswerForm.of(answers, n=1).distinct
    assert found.mean > 0.4 and found.low < found.mean < found.high
    assert found == AnswerForm.of(answers, n=1).distinct


@pytest.mark.parametrize("long", [0, 1])
def test_no_spread_over_blocks_is_no_number(long: int) -> None:
    answers = [_answer((7, 8, 9), False)] * long + [_answer((7, 8), False)] * (20 - long)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        form = AnswerForm.of(answers, n=3)
    assert form.distinct is None and form.length.n == 20
    shown = form_table({"before": form})
    assert "distinct 3-grams: before –" in shown.words and "<td" in shown.html
    points = form_figure({"before": form}).data[-1]
    assert math.isnan(points.y[0])


def test_before_training_both_give_the_same_answers() -> None:
    config = TrainConfig(steps=1, eval_every=0, eval_pairs=0, held_out=0.0, limit=32)
    job = prepare(config)
    before, after = before_and_after(job, ["the acting felt"] * 20, max_new_tokens=8, seed=3)
    assert before == after and len({answer.text for answer in before}) > 3
