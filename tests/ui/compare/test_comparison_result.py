"""A comparison from answers to result, with judges whose bias is known."""

from __future__ import annotations

import json
from random import Random

import pytest

from dpo_lab.annotation.blind import blind_questions
from dpo_lab.annotation.judges import BiasedJudge, RewardJudge
from dpo_lab.annotation.questions import Answer
from dpo_lab.annotation.side_answers import AnswerPair
from dpo_lab.ui.compare.result import ComparisonResult, in_words, votes_of

QUALITY = 0.8473
"""Logits by which A's answers are better."""
TRUE = 0.7
"""Its sigmoid: how often a judge without a bias prefers them."""


def quality(prompt: str, answer: str) -> float:
    return QUALITY * answer.startswith("yes")


def wordy(n: int, more: float) -> list[AnswerPair]:
    """A says yes, and is longer by some words, in the mean `more`."""
    random, pairs = Random(0), []
    for number in range(n):
        extra = round(random.gauss(more, 3))
        a, b = "yes" + " indeed" * max(extra, 0), "no." + " indeed" * max(-extra, 0)
        pairs.append(AnswerPair(number, f"prompt {number}", a, b))
    return pairs


def judged(judge, pairs, name="judge", **options) -> ComparisonResult:
    answers = [Answer(question, judge(question)) for question in blind_questions(pairs, 0)]
    return ComparisonResult.of(("A", "B"), pairs, {name: answers}, **options)


def holds(interval, value) -> bool:
    return interval.low <= value <= interval.high


def test_a_judge_without_bias_gives_the_true_rate_and_shows_none():
    (found,) = judged(BiasedJudge(quality), wordy(400, 0)).judged
    assert holds(found.win.rate, TRUE) and holds(found.controlled.rate, TRUE)
    assert holds(found.win.first, 0.5) and holds(found.controlled.place, 0)
    assert holds(found.controlled.length, 0)


def test_a_judge_that_prefers_the_first_shows_it_and_gives_the_true_rate():
    (found,) = judged(BiasedJudge(quality, first=1.5), wordy(400, 0)).judged
    assert found.win.first.low > 0.6 and holds(found.controlled.place, 1.5)
    assert found.win.flips.low > 0.3
    assert holds(found.controlled.rate, TRUE)
    assert not holds(found.win.rate, TRUE), "averaged over the orders it is too close to 50 %"


def test_a_judge_that_prefers_the_longer_shows_it_and_gives_the_true_rate():
    (found,) = judged(BiasedJudge(quality, longer=2.0), wordy(400, 2)).judged
    assert found.win.longer.low > 0.6 and found.controlled.length.low > 0.5
    assert holds(found.controlled.rate, TRUE)
    assert found.win.rate.low > TRUE, "A is longer, and is preferred for it"


def test_a_reward_sees_no_order_and_equal_answers_are_ties():
    pairs = [*wordy(6, 0), AnswerPair(6, "prompt 6", "yes", "yes"), AnswerPair(7, "p", "x", "x")]
    result = judged(RewardJudge(quality), pairs, orderless=["judge"])
    (found,) = result.judged
    assert (found.win.won, found.win.tied, found.win.lost) == (6, 2, 0)
    assert found.win.rate.mean == 7 / 8 and found.win.first is None and found.win.flips is None
    assert result.verdicts["judge"] == {n: "A" for n in range(6)} | {6: "tie", 7: "tie"}


def test_skipped_questions_are_counted_and_left_out():
    pairs = wordy(4, 0)
    result = judged(lambda question: "skip" if question.draw == 0 else "tie", pairs)
    (found,) = result.judged
    assert (found.verdicts, found.no_verdict) == (6, 2) and found.win.rate.n == 3
    assert any("2 of 8 questions have no verdict" in line for line in in_words(found, ("A", "B")))
    assert not judged(lambda question: "skip", pairs).judged


def test_two_judges_agree_on_what_both_were_asked():
    """Of 4 pairs judge 2 saw 3, and turns one around; equal answers are no agreement."""
    pairs = [*wordy(4, 0), AnswerPair(4, "p", "x", "x")]
    questions = blind_questions(pairs, 0)
    right = RewardJudge(quality)
    one = [Answer(question, right(question)) for question in questions]
    turned = {"A": "B", "B": "A"}
    other = [
        Answer(q, turned[right(q)] if q.draw == 1 else right(q)) for q in questions if q.draw != 0
    ]
    result = ComparisonResult.of(("A", "B"), pairs, {"one": one, "two": other})
    found = result.agreements["one and two"]
    assert found.share.n == 3 and found.share.mean == pytest.approx(2 / 3)
    json.dumps(result.as_dict())


def test_samples_of_a_prompt_are_one_value():
    pairs = [AnswerPair(n, "prompt", f"yes {n}", "no") for n in range(10)]
    (found,) = judged(RewardJudge(quality), pairs, orderless=["judge"]).judged
    assert found.win.rate.n == 1 and found.win.won == 1


def test_lengths_are_those_of_the_texts():
    pairs = [AnswerPair(0, "p", "yes ", "no!!!")]
    answers = [Answer(question, "tie") for question in blind_questions(pairs, 0)]
    assert votes_of(pairs, answers).extra_length == [-2, -2]


def test_words_say_what_the_intervals_show():
    """In plain words: who is better, and which bias is seen."""
    biased = judged(BiasedJudge(quality, first=1.5, longer=2.0), wordy(200, 2)).judged[0]
    words = " ".join(in_words(biased, ("mine", "theirs")))
    assert "mine is better." in words and "a bias for it." in words
    assert "the judge prefers long answers, or the long ones are better." in words
    fair = judged(BiasedJudge(lambda prompt, answer: 0.0), wordy(200, 0)).judged[0]
    words = " ".join(in_words(fair, ("mine", "theirs")))
    assert "no difference is seen." in words and "no bias is seen." in words
    assert "no preference for length is seen." in words
    turned = judged(BiasedJudge(lambda *texts: -quality(*texts), first=-1.5), wordy(200, 0))
    words = " ".join(in_words(turned.judged[0], ("mine", "theirs")))
    assert "theirs is better." in words and "a bias for the second." in words
