"""A person's blind choices between two models: one question at a time, undo, pairs that grow."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from dpo_lab.annotation.blind import blind_questions
from dpo_lab.annotation.questions import Choice, Question
from dpo_lab.annotation.session import Session
from dpo_lab.annotation.side_answers import AnswerPair


class BlindQueue:
    """Asks about answers of two models as they come, each first in one order, then in the other.

    The question on the page stays there until it is answered. Whether more answers come or not,
    the second order begins only when all pairs were asked in the first.

    Args:
        session: Holds the choices.
        seed: Which model stands left first.

    Attributes:
        question: The current question; none while no pair is left to ask about.
        pairs: All answers so far.
        complete: Whether no more will come.
    """

    def __init__(self, session: Session, seed: int = 0):
        self.session, self._seed = session, seed
        self.pairs: list[AnswerPair] = []
        self.question: Question | None = None
        self.complete = False
        self._lock = threading.RLock()

    def add(self, pairs: Sequence[AnswerPair], complete: bool) -> None:
        """All answers so far.

        Args:
            pairs: The answers.
            complete: Whether no more will come.
        """
        with self._lock:
            self.pairs, self.complete = list(pairs), complete
            if self.question is None:
                self._ask()

    def now(self) -> tuple[Question | None, int]:
        """The current question, and the value of the session's `clicks` that belongs to it."""
        with self._lock:
            return self.question, self.session.clicks

    @property
    def left(self) -> int:
        """Questions about the pairs so far that are not answered, in both orders."""
        answered = {answer.question.number for answer in self.session.answers}
        return sum(q.number not in answered for q in blind_questions(self.pairs, self._seed))

    def answer(self, choice: Choice, click: int | None = None) -> bool:
        """Answer the current question.

        Args:
            choice: A (the left), B, tie or skip.
            click: The session's `clicks` when the question was shown; an answer to any but the
                current one is ignored.

        Returns:
            Whether it was accepted.

        Raises:
            ValueError: If there is no such choice.
            OSError: If it cannot be written.
        """
        with self._lock:
            if self.question is None or click not in (None, self.session.clicks):
                return False
            self.session.add(self.question, choice)
            self._ask()
            return True

    def undo(self, click: int | None = None) -> bool:
        """Undo the last answer and ask its question again.

        Args:
            click: As in `answer`.

        Returns:
            Whether an answer was undone.

        Raises:
            OSError: If it cannot be written.
        """
        with self._lock:
            if click not in (None, self.session.clicks) or not self.session.answers:
                return False
            self.session.undo()
            self._ask()
            return True

    def _ask(self) -> None:
        if self.session.taken_back:
            self.question = self.session.taken_back[-1]
            return
        answered = {answer.question.number for answer in self.session.answers}
        orders = 2 if self.complete else 1
        questions = blind_questions(self.pairs, self._seed, orders)
        self.question = next((q for q in questions if q.number not in answered), None)
