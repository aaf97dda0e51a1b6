"""The Comparison widget: chat with two models at once, and choose blindly between their answers."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from dpo_lab.annotation.blind_queue import BlindQueue
from dpo_lab.annotation.questions import Answer, Choice, Question
from dpo_lab.annotation.session import UNDO, Session
from dpo_lab.annotation.side_answers import AnswerPair
from dpo_lab.annotation.verdict_session import kept_verdicts, open_verdicts
from dpo_lab.data.pairs import Text
from dpo_lab.models.handed_over import AnyModel
from dpo_lab.training.runs import Run
from dpo_lab.ui.annotator.question import QuestionSheet
from dpo_lab.ui.compare.chat import ChatSheet
from dpo_lab.ui.compare.page import judged_html
from dpo_lab.ui.compare.page_state import chat_state, question_state
from dpo_lab.ui.compare.result import ComparisonResult, in_words, judged_by
from dpo_lab.ui.compare.sides import names_of, sides_of
from dpo_lab.ui.compare.two_models import AHEAD, TwoModels
from dpo_lab.ui.figures.style import CSS_COLOURS
from dpo_lab.ui.html.output import bundle
from dpo_lab.ui.html.tables import escaped
from dpo_lab.ui.widgets.free_widgets import free

YOU = "you"
PATIENCE = 600.0
"""Seconds that code waits for a model: a large one may have to be downloaded first."""
_SAID = {"tie": "Noted as a tie.", "skip": "Skipped.", UNDO: "Taken back."}


class Comparison:
    """Two models side by side: a chat with both, and blind choices between their answers.

    Every choice is on disk before the next question shows; a comparison that was left goes on where
    it was. In the folder of a `dpo-lab compare` with the same prompts its answers are used, and the
    result shows how far its judges agree with you.

    Args:
        a: The model that may be better: a run or its folder (its policy), or a model in any form.
        b: The model to compare with; by default the reference of run a.
        prompts: What both answer for the blind choice; by default the held-out prompts of run a.
        folder: Of answers and choices; by default `compare/` in the folder of run a.
        limit: Most prompts, the first.
        max_new_tokens: Most tokens of an answer; by default as in run a.
        seed: Which model stands left first.

    Attributes:
        names: Names of both models.
        session: Your choices.
        queue: The blind questions.
        models: Both models at work.
        view: All of it as one widget.

    Raises:
        ValueError: If there is nothing to compare with, or no prompt.
        FileExistsError: If the comparison is open in another process.
    """

    def __init__(
        self,
        a: AnyModel | Run,
        b: AnyModel | Run | None = None,
        prompts: Sequence[Text] | None = None,
        folder: str | Path | None = None,
        *,
        limit: int = 200,
        max_new_tokens: int | None = None,
        seed: int = 0,
    ):
        first, second = sides_of(a, b)
        if isinstance(prompts, str) or prompts is not None and not list(prompts):
            raise ValueError(f"prompts={prompts!r}: must be a list of prompts. Give at least one.")
        if prompts is None and first.run is None:
            raise ValueError("prompts: a is no run, so nothing is held out. Give prompts.")
        self.names = names_of(first, second)
        self.folder = Path(folder) if folder else first.folder(second)
        _close_previous(self.folder)
        self._lock = threading.RLock()
        self._said, self._problem, self._closed = "", "", ""
        self._shown: tuple | None = None
        self.session: Session = open_verdicts(self.folder, YOU, {"sees_order": True})
        self.queue = BlindQueue(self.session, seed)
        self.models = TwoModels(
            (first.load, second.load),
            self.folder,
            lambda: (first.prompts() if prompts is None else list(prompts))[:limit],
            first.sampling(max_new_tokens, seed),
            drawn=self._drawn,
            changed=self._show,
        )
        self.chat_sheet = ChatSheet(self._typed)
        self.question_sheet = QuestionSheet(self._clicked)
        self._reveal = widgets.ToggleButton(value=False, description="Show the result")
        self._result = widgets.HTML()
        self._reveal.observe(self._revealed, "value")
        self.view = self._laid_out()
        _open[self.folder.resolve()] = self
        self._show()
        self.models.start()

    def _laid_out(self) -> widgets.VBox:
        folder = files("dpo_lab.ui.compare")
        styles = (folder.joinpath(name).read_text("utf-8") for name in _STYLES)
        style = widgets.HTML(f"<style>{CSS_COLOURS}{''.join(styles)}</style>")
        style.layout.display = "none"
        blind = widgets.VBox([self.question_sheet.view])
        tab = widgets.Tab(
            [self.chat_sheet.view, blind, widgets.VBox([self._reveal, self._result])],
            titles=("Chat", "Which is better?", "Result"),
        )
        return widgets.VBox([style, tab]).add_class("dpo-compare").add_class("dpo-annotator")

    @property
    def question(self) -> Question:
        """The current blind question; waits until its answers are there.

        Raises:
            TimeoutError: If there is none in time.
            BaseException: The error that ended the models' work.
        """
        self._wait(lambda: self.queue.question is not None)
        question, _ = self.queue.now()
        if question is None:
            raise TimeoutError("no question: every pair of answers was judged in both orders.")
        return question

    @property
    def pairs(self) -> list[AnswerPair]:
        """Answers of both models so far."""
        return self.queue.pairs

    def answer(self, choice: Choice) -> None:
        """Answer the current question, as a click does; waits until there is one.

        Args:
            choice: A (the left), B, tie or skip.
        """
        self._wait(lambda: self.queue.question is not None)
        self._choose(choice, None)

    def undo(self) -> None:
        """Undo the last choice; its question is asked again."""
        self._choose(UNDO, None)

    def say(self, text: str) -> tuple[str, str]:
        """Send a message to both models and wait for their answers.

        Raises:
            RuntimeError: If an answer is being written.
            ValueError: If the models refuse the message.
        """
        if not self.models.ask(text):
            raise RuntimeError("chat: an answer is being written, or the message is blank.")
        self._wait(lambda: not self.models.busy)
        if self.models.problem:
            raise ValueError(self.models.problem)
        row = self.models.rows[-1]
        return row["a"], row["b"]

    def result(self) -> ComparisonResult:
        """What your choices say so far, and those of the folder's other judges."""
        others, notes = kept_verdicts(self.folder, [YOU])
        answers: dict[str, Sequence[Answer]] = {YOU: self.session.answers}
        answers |= {one.judge: one.answers for one in others}
        known = {pair.number for pair in self.pairs}
        about = {
            name: [answer for answer in some if answer.question.draw in known]
            for name, some in answers.items()
        }
        orderless = [one.judge for one in others if not one.sees_order]
        return ComparisonResult.of(self.names, self.pairs, about, orderless=orderless, notes=notes)

    def close(self, words: str = "closed") -> None:
        """Stop the models and release the folder; the page keeps what it shows."""
        if self._closed:
            return
        self._closed = words
        self.models.close()
        self.session.close()
        self._show()

    def _repr_mimebundle_(self, **options):
        words = f"{self.names[0]} beside {self.names[1]}: run this cell to open them. "
        if found := judged_by(YOU, self.pairs, self.session.answers):
            words += " ".join(in_words(found, self.names))
        return bundle(self.view, options, words.strip())

    def _wait(self, done: Callable[[], bool]) -> None:
        if not self.models.wait(done, PATIENCE):
            raise TimeoutError(f"nothing after {PATIENCE:g} s: still at work. Wait longer.")
        if self.models.error:
            raise self.models.error

    def _drawn(self, pairs: list[AnswerPair], complete: bool) -> None:
        self.queue.add(pairs, complete)
        self._keep_ahead()

    def _keep_ahead(self) -> None:
        asked = {answer.question.draw for answer in self.session.answers}
        same = sum(pair.same for pair in self.queue.pairs)
        self.models.want(len(asked) + same + AHEAD)

    def _choose(self, choice: str, click: int | None) -> None:
        words = self._said
        try:
            if choice == UNDO:
                done = self.queue.undo(click)
            else:
                done = self.queue.answer(choice, click)
            if done:
                words = _SAID.get(choice, f"{choice} is noted.")
            self._keep_ahead()
        finally:
            self._show(words, "")

    def _clicked(self, choice: Any, click: Any) -> None:
        """Handle a click on the page; errors are shown there."""
        if self._closed or not isinstance(click, int):
            return
        try:
            self._choose(choice, click)
        except Exception as error:  # a callback's error would be lost
            self._show("", f"{type(error).__name__}: {error}")

    def _typed(self, action: str, text: str) -> None:
        """Handle the chat's box and buttons."""
        if self._closed:
            return
        if action == "stop":
            self.models.stop()
        elif action == "new":
            self.models.forget()
        else:
            self.models.ask(text)
        self._show()

    def _show(self, said: str | None = None, problem: str | None = None) -> None:
        """Update the page; may be called from any thread."""
        with self._lock:
            self._said = self._said if said is None else said
            self._problem = self._problem if problem is None else problem
            chat = chat_state(self.models, self.names, self._closed)
            if self.chat_sheet.state != chat:
                self.chat_sheet.state = chat
            problems = [self._problem, *self.session.notes]
            self.question_sheet.state = question_state(self.queue, self.models, self._closed) | {
                "heard": self.question_sheet.heard,
                "said": self._said,
                "problem": "\n".join(filter(None, problems)),
            }
            self._show_result()

    def _revealed(self, change: Any) -> None:
        self._reveal.description = "Hide the result" if change["new"] else "Show the result"
        self._show()

    def _show_result(self) -> None:
        facts = (self._reveal.value, self.session.clicks, len(self.pairs))
        if facts == self._shown:
            return
        self._shown = facts
        choices = self.session.count("A", "B", "tie")
        html = f"{choices} choices so far; hidden while you choose, so that it does not sway you."
        html = f"<p class='note'>{html}</p>"
        if self._reveal.value:
            try:
                html = judged_html(self.result())
            except (ValueError, OSError) as error:  # such as a judge that is at work
                html = f"<p class='note'>{escaped(error)}</p>"
        self._result.value = html


_STYLES = ("page.css", "comparison.css")
REOPENED = "closed: the comparison was opened again"
_open: weakref.WeakValueDictionary[Path, Comparison] = weakref.WeakValueDictionary()


def _close_previous(folder: Path) -> None:
    before = _open.get(folder.resolve())
    if before is not None:
        before.close(REOPENED)
        parts = before.view.children
        before.view.children = [widgets.HTML(f"<p class='note'>{REOPENED}</p>")]
        free(*parts)
