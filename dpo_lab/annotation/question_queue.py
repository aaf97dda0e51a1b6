"""Queue of annotation questions: answers sampled ahead in a thread, some questions asked twice."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from dpo_lab.annotation.question_source import AHEAD, QuestionSource
from dpo_lab.annotation.questions import Choice, Question
from dpo_lab.annotation.session import Session
from dpo_lab.data.pairs import Text, prompt_text
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.model_settings import new_tokens
from dpo_lab.models.weights import weights_fingerprint

REST = 5
"""Minimum number of answers between a question and its repetition."""


def check_repeat(repeat: float) -> None:
    """Check the share of questions to repeat.

    Raises:
        ValueError: If it is out of range.
    """
    if not 0 <= repeat < 1:
        raise ValueError(f"repeat={repeat}: must be in [0, 1). 0 repeats no question.")


class QuestionQueue:
    """Asks questions and stores the answers in a session, each on disk before the next question.

    Args:
        session: The session that stores the answers.
        prompts: Texts, or lists of messages.
        load: Returns the model that answers; called in the sampling thread.
        seed: Seed of the answers, their order and the repetitions. A session that is reopened with
            the same prompts, model and seed asks what it would have asked without the break.
        repeat: Share of the questions that repeat an earlier one with its sides swapped.
        max_new_tokens: Maximum tokens of an answer; by default that of `sample`.
        changed: Called in the sampling thread when there is a new question or an error.

    Attributes:
        question: The current question; none while it is being sampled.
        model: The model that gave the first answers, once it is loaded: the reference.
        given_up: Prompts to which the model gave no two different answers.
        single_minded: Whether the policy gave none to any prompt, so that the reference asks again.
        error: The error that ended the sampling.

    Raises:
        ValueError: If `repeat` is out of range.
    """

    def __init__(
        self,
        session: Session,
        prompts: Sequence[Text],
        load: Callable[[], LanguageModel],
        *,
        seed: int = 0,
        repeat: float = 0.12,
        max_new_tokens: int | None = None,
        changed: Callable[[], None] = lambda: None,
    ):
        check_repeat(repeat)
        self.session, self.prompts = session, list(prompts)
        self.question: Question | None = None
        self.model: LanguageModel | None = None
        self.given_up: list[Text] = []
        self.single_minded = False
        self.error: BaseException | None = None
        self._load = load
        self._next: tuple[Callable[[], LanguageModel], str] | None = None
        self._changed = changed
        self._seed, self._repeat, self._max_new_tokens = seed, repeat, max_new_tokens
        self._drawn: deque[Question] = deque()
        self._asked_after = 0
        self._news = threading.Condition(threading.RLock())
        self._drawing = self._resting = self._closed = False
        self._thread = threading.Thread(target=self._work, name="dpo-lab pairs", daemon=True)

    def start(self) -> QuestionQueue:
        """Start the sampling thread; returns at once."""
        with self._news:
            self._ask()
        self._thread.start()
        return self

    def wait(self, timeout: float | None = None) -> Question:
        """Wait for the current question.

        Raises:
            RuntimeError: If the queue was closed.
            TimeoutError: If there is no question in time.
            BaseException: The error that ended the sampling.
        """
        with self._news:
            self._keep_up()
            self._news.wait_for(lambda: self.question or self.error or self._closed, timeout)
            if self.question:
                return self.question
            if self.error:
                raise self.error
            if self._closed:
                raise RuntimeError(f"{self.session.path}: closed. Open the session again to go on.")
        raise TimeoutError(f"no question after {timeout:g} s: still sampling. Wait longer.")

    def now(self) -> tuple[Question | None, int]:
        """The current question, and the value of the session's `clicks` that belongs to it."""
        with self._news:
            self._keep_up()
            return self.question, self.session.clicks

    def answer(self, choice: Choice, click: int | None = None) -> bool:
        """Answer the current question.

        Args:
            choice: A, B, tie or skip.
            click: The session's `clicks` when the question was shown. An answer to any question
                but the current one (a double click) is ignored.

        Returns:
            Whether the answer was accepted.

        Raises:
            ValueError: If there is no such choice.
            OSError: If it cannot be written.
        """
        with self._news:
            self._keep_up()
            if self.question is None or click not in (None, self.session.clicks):
                return False
            try:
                self.session.add(self.question, choice)
            finally:
                self._keep_up()
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
        with self._news:
            if click not in (None, self.session.clicks) or not self.session.answers:
                return False
            try:
                self.session.undo()
            finally:
                self._keep_up()
            return True

    @property
    def waiting_for(self) -> str:
        """Why there is no question, in words."""
        if self.error:
            return "There are no more questions."
        if self._resting:
            return "More questions once the run has ended."
        drawing = "The next two answers are being drawn."
        return drawing if self.model else "The model is being loaded."

    def ask_of(self, load: Callable[[], LanguageModel], name: str) -> None:
        """Begin a round: the next new questions are answers of another model.

        Questions that were drawn ahead are dropped; the one that is on the page stays there.

        Args:
            load: Returns the model, a policy of the same reference; called in the sampling thread.
            name: Of the policy: that of its run.
        """
        with self._news:
            self._next, self.single_minded = (load, name), False
            self._drawn.clear()
            self._news.notify_all()

    def rest(self) -> None:
        """Pause sampling, and wait for the batch in progress: a run needs the model."""
        with self._news:
            self._resting = True
            self._news.wait_for(lambda: not self._drawing)

    def go_on(self) -> None:
        """Resume sampling."""
        with self._news:
            self._resting = False
            self._news.notify_all()

    def close(self) -> None:
        """Stop asking, and close the session."""
        with self._news:
            self._closed, self.question = True, None
            self._news.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self.session.close()

    def _keep_up(self) -> None:
        """Ask the question after the last click, in case an interrupt came between the two."""
        if self._asked_after != self.session.clicks and not self._closed:
            self._ask()

    def _ask(self) -> None:
        """Choose the current question."""
        session, number = self.session, self.session.next_number
        self._put_back()
        if session.taken_back:
            self.question = session.taken_back[-1]
        elif again := self._repeated(number):
            self.question = again
        elif self._drawn:
            self.question = replace(self._drawn.popleft(), number=number)
        self._asked_after = session.clicks
        self._news.notify_all()

    def _repeated(self, number: int) -> Question | None:
        """An earlier question with its sides swapped, if one is due."""
        random = Random(f"{self._seed} repeat {number}")
        if random.random() >= self._repeat:
            return None
        asked = {answer.question.repeats for answer in self.session.answers}
        old = [
            answer.question
            for answer in self.session.answers[: -REST or None]
            if answer.choice != "skip"
            and answer.question.repeats is None
            and answer.question.number not in asked
        ]
        if not old:
            return None
        return random.choice(old).swapped(number)

    def _put_back(self) -> None:
        """Clear the question; a new pair goes back to the queue, behind undone questions."""
        question, self.question = self.question, None
        if question and question.number == self.session.next_number and question.repeats is None:
            self._drawn.appendleft(question)

    def _work(self) -> None:
        source, number = None, 0
        try:
            while self._wait_for_room():
                with self._news:
                    following, self._next = self._next, None
                if following or source is None:
                    source, number = self._source_of(following), self.session.next_draw
                # Always the same draws in a batch, so that a reopened session repeats them.
                block, done = divmod(number, AHEAD)
                drawn = source.block(block)[done:]
                number += AHEAD - done
                with self._news:
                    self._drawing, self.given_up = False, source.given_up
                    if self._next is None:  # else they are answers of the model before
                        self._drawn.extend(question for question in drawn if question)
                    if source.exhausted:
                        self._fall_back(source)
                    if self.question is None and not self._closed:
                        self._ask()
                    self._news.notify_all()
                self._changed()
        except BaseException as error:  # shown on the page, raised by wait()
            with self._news:
                self.error, self._drawing = error, False
                self._news.notify_all()
            self._changed()

    def _source_of(self, policy: tuple[Callable[[], LanguageModel], str] | None) -> QuestionSource:
        """What draws the next questions: a policy with its name, or else the reference."""
        if self.model is None:
            self.model = self._load()
        load, name = policy or (lambda: self.model, "")
        model = load()
        # A policy by its run: weights with an adapter differ once they are merged.
        name = name or weights_fingerprint(self.model.base)[:12]
        prompts = model.encoder.as_prompts(self.prompts)
        most = self._max_new_tokens or new_tokens(self.model.name)
        return QuestionSource(model, f"{self.model.name} {name}", prompts, self._seed, most)

    def _fall_back(self, source: QuestionSource) -> None:
        """A policy of one answer hands back to the reference; without that there is an end."""
        if source.model is self.model:
            raise ValueError(
                f"prompts: {source.model.name} gives no two different answers to any of them, "
                f"such as {prompt_text(source.prompts[0])[:60]!r}. Give other prompts, or another "
                "model."
            )
        self.single_minded = True
        self._next = self._next or (lambda: self.model, "")

    def _wait_for_room(self) -> bool:
        """Wait until a pair is to be sampled; false once the queue is closed."""
        with self._news:
            self._news.wait_for(
                lambda: (
                    self._closed or ((self._next or len(self._drawn) < AHEAD) and not self._resting)
                )
            )
            self._drawing = not self._closed
            return self._drawing
