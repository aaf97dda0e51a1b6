"""Blind questions, and judges whose bias is known: the true win rate comes back, the bias shows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from dpo_lab.annotation.blind import a_is_left, blind_questions, judge_all, win_of_a
from dpo_lab.annotation.judges import BiasedJudge, RewardJudge
from dpo_lab.annotation.questions import Answer
from dpo_lab.annotation.session import Session
from dpo_lab.annotation.side_answers import AnswerPair, Sampling, SideAnswers, answer_pairs
from dpo_lab.annotation.verdict_session import check_about, open_verdicts

PAIRS = [AnswerPair(n, f"prompt {n}", f"a{n}", f"b{n}") for n in range(200)]


def test_every_pair_is_asked_twice_with_sides_swapped_and_sides_are_random():
    questions = blind_questions(PAIRS, seed=1)
    first, second = questions[:200], questions[200:]
    assert [q.draw for q in first] != list(range(200)), "in random order"
    assert {q.number for q in questions} == set(range(1, 401))
    for one, other in zip(first, second, strict=True):
        assert (one.draw, one.a, one.b) == (other.draw, other.b, other.a)
        assert other.repeats == one.number and a_is_left(one) != a_is_left(other)
        assert (one.a if a_is_left(one) else one.b) == f"a{one.draw}"
    left = sum(map(a_is_left, first))
    assert abs(left - 100) <= 3 * math.sqrt(50)
    assert blind_questions(PAIRS, seed=1) == questions != blind_questions(PAIRS, seed=2)
    assert blind_questions(PAIRS[:50], seed=1, orders=1) == [q for q in first if q.draw < 50]
    with pytest.raises(ValueError, match="1 or 2"):
        blind_questions(PAIRS, seed=1, orders=3)


def test_equal_answers_are_asked_of_nobody():
    same = [AnswerPair(0, "p", "yes", "yes "), AnswerPair(1, "p", "yes", "no")]
    assert [question.draw for question in blind_questions(same, 0)] == [1, 1]


def test_a_choice_of_a_side_is_a_win_of_its_model():
    one, other = (q for q in blind_questions(PAIRS[:1], 0))
    left = "A" if a_is_left(one) else "B"
    assert win_of_a(Answer(one, left)) == 1 and win_of_a(Answer(other, left)) == 0
    assert win_of_a(Answer(one, "tie")) == 0.5 and win_of_a(Answer(one, "skip")) is None


def test_a_reward_judge_prefers_the_higher_reward():
    (question,) = blind_questions([AnswerPair(0, "p", "aaa", "b")], 0, orders=1)
    longer = RewardJudge(lambda prompt, answer: float(len(answer)))
    assert win_of_a(Answer(question, longer(question))) == 1
    assert replace(longer, tie_within=2.0)(question) == "tie"
    assert RewardJudge(lambda prompt, answer: math.nan)(question) == "skip"


def test_a_biased_judge_errs_as_it_says():
    """Of equal quality, the first wins at sigmoid(1): 73 %; a tie in one of five."""
    judge = BiasedJudge(lambda prompt, answer: 0.0, first=1.0, ties=0.2)
    questions = blind_questions([replace(p, a="x", b="y") for p in PAIRS * 1], 3)
    choices = [judge(question) for question in questions]
    assert choices == [judge(question) for question in questions]
    ties, firsts = choices.count("tie"), choices.count("A")
    assert abs(ties / 400 - 0.2) < 3 * math.sqrt(0.16 / 400)
    assert abs(firsts / (400 - ties) - 0.731) < 3 * math.sqrt(0.731 * 0.269 / (400 - ties))


def test_verdicts_are_kept_with_what_they_depend_on(tmp_path):
    session = open_verdicts(tmp_path, "a judge/1", {"url": "x"})
    judge_all(session, blind_questions(PAIRS[:3], 0), lambda question: "tie")
    session.close()
    again = open_verdicts(tmp_path, "a judge/1", {"url": "x"})
    assert len(again.answers) == 6
    check_about(PAIRS, again.answers)
    with pytest.raises(ValueError, match="other answers"):
        check_about([replace(p, a="changed") for p in PAIRS], again.answers)
    again.close()
    with pytest.raises(FileExistsError, match="other settings"):
        open_verdicts(tmp_path, "a judge/1", {"url": "y"})
    open_verdicts(tmp_path, "a judge/1", {"url": "x"}).close()  # not left locked


def test_answers_are_drawn_once_and_continued_after_a_kill(tmp_path, micro):
    prompts = ["the plot was", "the acting felt", "the music was"]
    how = Sampling(max_new_tokens=6, temperature=1.0, seed=3, samples=8)
    whole = SideAnswers(tmp_path / "whole.jsonl", micro, prompts, how).draw()
    assert len(whole.answers) == 24 and whole.prompts[:9] == [prompts[0]] * 8 + [prompts[1]]

    part = SideAnswers(tmp_path / "part.jsonl", micro, prompts, how)
    part.draw_block()
    assert len(part.answers) == 16 and not part.complete
    with part.path.open("a") as file:
        file.write('{"text": "torn')
    asked = []
    again = SideAnswers(tmp_path / "part.jsonl", micro, prompts, how)
    assert again.notes and again.draw(lambda *done: asked.append(done)).answers == whole.answers
    assert asked == [(24, 24)]

    pairs = answer_pairs(whole, SideAnswers(tmp_path / "b.jsonl", micro, prompts, how))
    assert pairs == []
    greedy = SideAnswers(tmp_path / "g.jsonl", micro, prompts, Sampling(6)).draw()
    assert [pair.a for pair in answer_pairs(greedy, greedy)] == [text for text, _ in greedy.answers]
    with pytest.raises(FileExistsError, match="other weights"):
        SideAnswers(tmp_path / "g.jsonl", micro, prompts[:2], Sampling(6))
    with pytest.raises(ValueError, match="are the same"):
        Sampling(6, samples=2)


def test_verdicts_continue_in_a_session_of_a_person(tmp_path):
    """The questions are a session's own: they can be undone, and make pairs to train on."""
    session = Session(tmp_path / "mine")
    question = blind_questions(PAIRS[:1], 0)[0]
    session.add(question, "A")
    assert session.pairs == [{"prompt": "prompt 0", "chosen": question.a, "rejected": question.b}]
    session.undo()
    judge_all(session, [question], lambda asked: "B")
    assert session.pairs[0]["chosen"] == question.b
    session.close()
