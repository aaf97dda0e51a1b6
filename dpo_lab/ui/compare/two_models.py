"""Two models at work for a page: one thread chats when asked and draws answers in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dpo_lab.annotation.side_answers import AnswerPair, Sampling, SideAnswers, answer_pairs
from dpo_lab.data.pairs import Text
from dpo_lab.data.sampled import shown
from dpo_lab.models.chat import Chat
from dpo_lab.models.loading import LanguageModel

AHEAD = 4
"""Pairs of answers drawn ahead of the person who is asked about them."""
BLOCK = 2
"""Prompts answered at a time, so that a message to the models does not wait long."""
BETWEEN = 0.08
"""Seconds between two updates of the page while an answer is written."""


class TwoModels:
    """Loads both models in a thread of its own; chats with them, and draws answers to prompts.

    Args:
        loads: What loads models A and B; called in the thread.
        folder: Gets `a.jsonl` and `b.jsonl`.
        prompts: Returns the prompts; called in the thread, since data may have to be read.
        sampling: How both answer prompts; a chat is answered greedily within the same limit.
        drawn: Called in the thread when there are more answers, with `(pairs, complete)`.
        changed: Called in the thread when the chat has changed.

    Attributes:
        rows: The chat so far: prompt, answer of A, answer of B.
        busy: Whether an answer of the chat is being written.
        drawing: Whether answers to prompts are being drawn, which a message has to wait for.
        loaded: Whether both models are there.
        remembers: Whether both models are given the earlier turns.
        error: What ended the thread.
        problem: What was wrong with the last message.
    """

    def __init__(
        self,
        loads: Sequence[Callable[[], LanguageModel]],
        folder: Path,
        prompts: Callable[[], Sequence[Text]],
        sampling: Sampling,
        drawn: Callable[[list[AnswerPair], bool], None],
        changed: Callable[[], None],
    ):
        self.rows: list[dict[str, str]] = []
        self.busy = self.drawing = self.loaded = False
        self.remembers = True
        self.error: BaseException | None = None
        self.problem = ""
        self._loads, self._folder, self._prompts = loads, folder, prompts
        self._sampling, self._drawn, self._changed = sampling, drawn, changed
        self._chats: list[Chat] = []
        self._sides: list[SideAnswers] = []
        self._message: str | None = None
        self._wanted, self._stop, self._closed = AHEAD, False, False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="dpo-lab compare", daemon=True)

    def start(self) -> None:
        """Start the thread; returns at once."""
        self._thread.start()

    def ask(self, text: str) -> bool:
        """Send a message to both models; false if one is being answered, or the text is blank."""
        with self._news:
            if self.busy or self._closed or self.error or not text.strip():
                return False
            self.busy, self._stop, self._message = True, False, text.strip()
            self.rows.append({"prompt": self._message, "a": "", "b": ""})
            self._news.notify_all()
        return True

    def stop(self) -> None:
        """End the answer that is being written."""
        self._stop = True

    def forget(self) -> bool:
        """Begin a new chat; false while an answer is being written."""
        with self._news:
            if self.busy:
                return False
            self.rows.clear()
            for chat in self._chats:
                chat.forget()
            return True

    def want(self, pairs: int) -> None:
        """Draw answers until there are so many pairs."""
        with self._news:
            self._wanted = pairs
            self._news.notify_all()

    def wait(self, done: Callable[[], bool], timeout: float) -> bool:
        """Wait until something holds, looked at whenever something has changed."""
        with self._news:
            return self._news.wait_for(lambda: done() or self.error is not None, timeout)

    def close(self) -> None:
        """End the thread."""
        with self._news:
            self._closed = self._stop = True
            self._news.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        try:
            self._load()
            while self._wait_for_work():
                if self._message is not None:
                    self._answer(self._message)
                else:
                    self._draw()
        except BaseException as error:  # shown on the page
            self.error, self.busy = error, False
        self._tell()

    def _load(self) -> None:
        names = ("a.jsonl", "b.jsonl")
        models = [load() for load in self._loads]
        prompts = list(self._prompts())
        self._chats = [Chat(model, self._sampling.prompt_format) for model in models]
        self.remembers = all(chat.remembers for chat in self._chats)
        how = [self._sampling, self._sampling.of_b()]
        self._sides = [
            SideAnswers(self._folder / name, model, prompts, each)
            for name, model, each in zip(names, models, how, strict=True)
        ]
        self.loaded = True
        self._drawn(answer_pairs(*self._sides), self._complete)
        self._tell()

    @property
    def _complete(self) -> bool:
        return all(side.complete for side in self._sides)

    def _wait_for_work(self) -> bool:
        def some() -> bool:
            short = not self._complete and len(answer_pairs(*self._sides)) < self._wanted
            return self._closed or self._message is not None or short

        with self._news:
            self._news.wait_for(some)
        return not self._closed

    def _draw(self) -> None:
        self.drawing = True
        for side in self._sides:
            if not self._closed and self._message is None:
                behind = len(side.answers) <= min(len(each.answers) for each in self._sides)
                if behind and not side.complete:
                    side.draw_block(BLOCK)
        self.drawing = False
        self._drawn(answer_pairs(*self._sides), self._complete)
        self._tell()

    def _answer(self, message: str) -> None:
        row, self.problem = self.rows[-1], ""
        told = 0.0

        def show(side: str, text: str) -> bool:
            nonlocal told
            row[side] = text
            if time.monotonic() - told >= BETWEEN:
                told = time.monotonic()
                self._tell()
            return not self._stop

        try:
            for side, chat in zip("ab", self._chats, strict=True):
                if self._stop:
                    break
                answer = chat.ask(
                    message,
                    lambda text, side=side: show(side, text),
                    max_new_tokens=self._sampling.max_new_tokens,
                )
                row[side] = shown(answer.text, not answer.ended) or "(empty)"
        except ValueError as error:  # too long a conversation, or one that a template refuses
            self.problem = str(error)
        with self._news:
            self.busy, self._message = False, None
        self._tell()

    def _tell(self) -> None:
        with self._news:
            self._news.notify_all()
        self._changed()
