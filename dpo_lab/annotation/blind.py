"""Blind questions about two models' answers: which model is on the left is random, and logged."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from itertools import count
from random import Random

from dpo_lab.annotation.questions import Answer, Choice, Question
from dpo_lab.annotation.session import Session
from dpo_lab.annotation.side_answers import AnswerPair

A_LEFT, B_LEFT = "A | B", "B | A"
"""What a question's `model` says: which model stands left and which right."""
Judge = Callable[[Question], Choice]
"""Says which side of a question is better, `A` the left one; `skip` if it cannot say."""


def blind_questions(pairs: Sequence[AnswerPair], seed: int, orders: int = 2) -> list[Question]:
    """Each pair of different answers as a question; then all of them again with sides swapped.

    Args:
        pairs: Answers of models A and B.
        seed: Which model stands left first, and in which order the pairs come.
        orders: 2 asks every pair in both orders, 1 in one.

    Raises:
        ValueError: If orders is neither 1 nor 2.
    """
    if orders not in (1, 2):
        raise ValueError(f"orders={orders}: must be 1 or 2. 2 shows a preference for a side.")
    first = [_question(pair, seed) for pair in pairs if not pair.same]
    first.sort(key=lambda question: Random(f"{seed} turn {question.draw}").random())
    return first + [_swapped(question) for question in first] * (orders - 1)


def a_is_left(question: Question) -> bool:
    """Whether the answer of model A stands on the left."""
    return question.model == A_LEFT


def win_of_a(answer: Answer) -> float | None:
    """1 if A's answer was preferred, 0 if B's, 0.5 for a tie; none if there is no verdict."""
    if answer.choice in ("tie", "skip"):
        return 0.5 if answer.choice == "tie" else None
    return float((answer.choice == "A") == a_is_left(answer.question))


def judge_all(
    session: Session,
    questions: Sequence[Question],
    judge: Judge,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Ask a judge all questions that are not answered yet; each verdict is on disk at once.

    Args:
        session: Holds the verdicts: after a kill no question is asked again.
        questions: From `blind_questions`.
        judge: The judge.
        workers: Questions asked at the same time.
        progress: Called with `(done, total)` questions.

    Raises:
        Exception: The judge's error; the verdicts before it are kept.
    """
    answered = {answer.question.number for answer in session.answers}
    open_ones = [question for question in questions if question.number not in answered]
    done, writing = count(len(questions) - len(open_ones) + 1), threading.Lock()

    def ask(question: Question) -> None:
        """In a worker, which asks nothing more before this verdict is on disk."""
        verdict = judge(question)
        with writing:
            session.add(question, verdict)
            if progress:
                progress(next(done), len(questions))

    pool = ThreadPoolExecutor(workers, thread_name_prefix="dpo-lab judge")
    try:
        for asked in as_completed([pool.submit(ask, question) for question in open_ones]):
            asked.result()
    finally:  # what is being asked when another request fails is kept, too
        pool.shutdown(cancel_futures=True)


def _question(pair: AnswerPair, seed: int) -> Question:
    left = Random(f"{seed} side {pair.number}").random() < 0.5
    a, b = (pair.a, pair.b) if left else (pair.b, pair.a)
    return Question(
        number=2 * pair.number + 1,
        prompt=pair.prompt,
        a=a,
        b=b,
        draw=pair.number,
        model=A_LEFT if left else B_LEFT,
    )


def _swapped(question: Question) -> Question:
    swapped = question.swapped(question.number + 1)
    return replace(swapped, model=B_LEFT if a_is_left(question) else A_LEFT)
