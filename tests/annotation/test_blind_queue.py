"""A person's blind choices: pairs that grow, both orders, undo, reopened."""

from __future__ import annotations

from dpo_lab.annotation.blind import a_is_left
from dpo_lab.annotation.blind_queue import BlindQueue
from dpo_lab.annotation.session import Session
from dpo_lab.annotation.side_answers import AnswerPair

PAIRS = [AnswerPair(n, f"prompt {n}", f"a{n}", f"b{n}") for n in range(4)]


def test_the_second_order_waits_until_all_answers_are_there(session):
    queue = BlindQueue(session)
    assert queue.question is None and not queue.answer("A")
    queue.add(PAIRS[:2], complete=False)
    asked = []
    while queue.question:
        asked.append(queue.question)
        queue.answer("tie")
    assert {q.draw for q in asked} == {0, 1} and all(q.repeats is None for q in asked)
    queue.add(PAIRS, complete=True)
    assert queue.left == 6
    while queue.question:
        asked.append(queue.question)
        queue.answer("A")
    assert [q.draw for q in asked[2:4]] in ([2, 3], [3, 2])
    assert [q.repeats is None for q in asked] == [True] * 4 + [False] * 4
    assert queue.left == 0 and sum(map(a_is_left, asked)) == 4


def test_the_question_on_the_page_stays_while_more_come(session):
    queue = BlindQueue(session)
    queue.add(PAIRS[3:], complete=False)
    shown = queue.question
    queue.add([*PAIRS[:3], PAIRS[3]], complete=True)
    assert queue.question == shown


def test_a_double_click_is_ignored_and_undo_asks_again(session):
    queue = BlindQueue(session)
    queue.add(PAIRS, complete=True)
    question, click = queue.now()
    assert queue.answer("A", click) and not queue.answer("B", click)
    assert queue.question != question
    assert queue.undo() and queue.question == question
    assert queue.answer("B") and len(session.answers) == 1


def test_it_goes_on_where_it_was(tmp_path):
    session = Session(tmp_path / "mine")
    queue = BlindQueue(session, seed=3)
    queue.add(PAIRS, complete=True)
    queue.answer("A")
    following = queue.question
    session.close()
    session = Session(tmp_path / "mine")
    again = BlindQueue(session, seed=3)
    again.add(PAIRS, complete=True)
    assert again.question == following and again.left == 7
    session.close()
