"""The Annotator widget: compare pairs of a model's answers, and train on the preferences."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from dpo_lab.annotation.question_queue import QuestionQueue, check_repeat
from dpo_lab.annotation.questions import Answer, Choice, Question
from dpo_lab.annotation.rounds import Round, last_policy, rounds_of
from dpo_lab.annotation.session import UNDO, Session
from dpo_lab.data.builtin import RewardFn
from dpo_lab.data.pairs import Text, answer_to, prompt_text
from dpo_lab.data.problems import UnusableRow
from dpo_lab.data.rows import COLUMNS, row_to_pair
from dpo_lab.data.sampled import Sampled, shown
from dpo_lab.models.handed_over import AnyModel, as_language_model
from dpo_lab.models.loading import LanguageModel
from dpo_lab.training.background import BackgroundRun
from dpo_lab.training.outcome import MeanCI
from dpo_lab.ui.annotator.question import BLANK, QuestionSheet, prompt_words
from dpo_lab.ui.annotator.rounds_table import rounds_html
from dpo_lab.ui.annotator.train_panel import TrainPanel
from dpo_lab.ui.html.output import bundle
from dpo_lab.ui.widgets.free_widgets import free

PATIENCE = 600.0
"""Seconds that code waits for a question: a large model may have to be downloaded first."""
_SAID = {"tie": "Noted as a tie.", "skip": "Skipped.", UNDO: "Taken back."}


class Annotator:
    """Two answers of a model to each prompt, side by side; the same from the page and from code.

    Every click is on disk before the next question shows. A session that was left, or whose kernel
    died, continues where it was when it is reopened. After a run its policy gives the next answers:
    a new round. Every run trains on all pairs so far, from the same reference. A new annotator on a
    session that is open in this process closes the old one and frees its widgets, so that a cell
    can be run again.

    Args:
        prompts: Texts (messages for a model with a chat template), or lists of messages.
        model: micro, smollm2, a folder, a hub id, or a model already loaded.
        session: Folder of the clicks, of the pairs made from them, and of the runs on the pairs.
        reward_fn: Reward of `(prompt, response)`, shown before and after training.
        seed: Seed of the answers, their order and the repetitions.
        repeat: Share of the questions that ask an earlier one again with its sides swapped.
        max_new_tokens: Maximum tokens of an answer; by default that of `sample`.

    Attributes:
        session: The answers, and the files they are in.
        interview: The queue of questions.
        train_panel: Trains on the pairs so far.
        view: All of it as one widget.
        parts: Its top-level widgets, from top to bottom.

    Raises:
        ValueError: If a prompt or an argument cannot be used.
        FileExistsError: If the session is open in another process.
        NotADirectoryError: If its path is a file.
    """

    def __init__(
        self,
        prompts: Sequence[Text],
        model: AnyModel = "micro",
        session: str | Path = "my_preferences",
        *,
        reward_fn: RewardFn | None = None,
        seed: int = 0,
        repeat: float = 0.12,
        max_new_tokens: int | None = None,
    ):
        model = str(model) if isinstance(model, str | Path) else as_language_model(model)
        self._model, prompts = model, _checked(prompts)
        self._name = model if isinstance(model, str) else model.name
        self._reward_fn, self._rewards = reward_fn, {}
        check_repeat(repeat)
        _close_previous(Path(session))
        self._lock = threading.RLock()
        self._said, self._problem, self._closed = "", "", ""
        self.session = Session(session)
        try:
            self.interview = QuestionQueue(
                self.session,
                prompts,
                self._load,
                seed=seed,
                repeat=repeat,
                max_new_tokens=max_new_tokens,
                changed=self._show,
            )
        except BaseException:
            self.session.close()
            raise
        if policy := last_policy(self.session.path / "runs", self._name):
            self.interview.ask_of(*policy)
        self.train_panel = TrainPanel(
            self.interview, model, reward_fn, max_new_tokens, ended=self._show
        )
        self.question_sheet = QuestionSheet(self._clicked)
        self.rounds_table = widgets.HTML().add_class("dpo-rounds")
        self.parts = (
            self.train_panel.style,
            self.question_sheet.view,
            self.train_panel.view,
            self.rounds_table,
        )
        self.view = widgets.VBox(self.parts).add_class("dpo-workbench").add_class("dpo-annotator")
        _open[self.session.path.resolve()] = self
        self._show()
        self.interview.start()
        self._show()

    @property
    def question(self) -> Question:
        """The current question; waits until its answers are sampled.

        Raises:
            BaseException: The error that ended the sampling.
        """
        return self.interview.wait(PATIENCE)

    @property
    def answers(self) -> list[Answer]:
        """The answers in effect."""
        return self.session.answers

    @property
    def pairs(self) -> list[dict[str, Text]]:
        """The preference pairs made from the answers, as in the file."""
        return self.session.pairs

    @property
    def agreement(self) -> MeanCI | None:
        """Share of questions answered twice that got the same answer; none if there are none."""
        same = [float(agrees) for agrees in self.session.agreements]
        return MeanCI.of(same) if same else None

    @property
    def rounds(self) -> list[Round]:
        """The rounds so far: after a run, its policy asks the next questions."""
        return rounds_of(self.session, self._reward_fn and self._worth)

    def _worth(self, prompt: str, response: str) -> float:
        """Reward of an answer, computed once; NaN where it cannot be."""
        if (prompt, response) not in self._rewards:
            try:
                self._rewards[prompt, response] = float(self._reward_fn(prompt, response))
            except Exception:  # somebody else's code, which must not end the questions
                self._rewards[prompt, response] = math.nan
        return self._rewards[prompt, response]

    @property
    def run(self) -> BackgroundRun | None:
        """The run in progress, or the last one."""
        return self.train_panel.run

    def answer(self, choice: Choice) -> None:
        """Answer the current question, as a click does; waits until there is one.

        Args:
            choice: A, B, tie or skip.

        Raises:
            ValueError: If there is no such choice.
            OSError: If it cannot be written.
        """
        self.interview.wait(PATIENCE)
        self._do(choice, None)

    def undo(self) -> None:
        """Undo the last answer; its question is asked again."""
        self._do(UNDO, None)

    def answer_as(self, who: Callable[[Question], Choice], questions: int) -> None:
        """Let a function answer, such as a `SimulatedAnnotator`.

        Args:
            who: Returns the choice for a question.
            questions: How many questions to answer.
        """
        for _ in range(questions):
            self.answer(who(self.question))

    def train(self, **changes: Any) -> BackgroundRun:
        """Train the model on the pairs so far; returns at once: call `wait` on the result.

        Args:
            **changes: Fields of `TrainConfig`.

        Raises:
            RuntimeError: If a run is in progress, or the annotator was closed.
            ValueError: If a setting is invalid, or there is no pair yet.
        """
        if self._closed:
            raise RuntimeError(f"{self._closed}. Open the session again to train.")
        return self.train_panel.train(**changes)

    def stop(self) -> None:
        """End the run after the step in progress."""
        self.train_panel.stop()

    def close(self, words: str = "closed") -> None:
        """Stop everything and release the session's lock; the page keeps what it shows."""
        if self._closed:
            return
        self._closed = words
        self.train_panel.close(words)
        self.interview.close()
        self._show("")

    def _repr_mimebundle_(self, **options):
        words = "Two answers to compare: run this cell to open them."
        still = f"<em>{words}</em>{self.train_panel.samples.value}"
        return bundle(self.view, options, words, still)

    def _load(self) -> LanguageModel:
        return as_language_model(self._model)

    def _do(self, choice: str, click: int | None) -> None:
        """Apply a click; the number `click` says which question was on the page."""
        words = ""
        try:
            if choice == UNDO:
                done = self.interview.undo(click)
            else:
                done = self.interview.answer(choice, click)
            words = _SAID.get(choice, f"{choice} is noted.") if done else self._said
        finally:
            self._show(words, "")

    def _clicked(self, choice: Any, click: Any) -> None:
        """Handle a click on the page; errors are shown there."""
        if self._closed or not isinstance(click, int):
            return
        try:
            self._do(choice, click)
        except Exception as error:  # a callback's error would be lost
            self._show("", f"{type(error).__name__}: {error}")

    def _show(self, said: str | None = None, problem: str | None = None) -> None:
        """Update the page; may be called from any thread."""
        with self._lock:
            self._said = self._said if said is None else said
            self._problem = self._problem if problem is None else problem
            question, click = self.interview.now()
            asked = question is not None and not self._closed
            self.question_sheet.state = BLANK | {
                "click": click,
                "heard": self.question_sheet.heard,
                "asked": asked,
                "open": not self._closed,
                "prompt": prompt_words(question.prompt) if asked else "",
                "a": shown(question.a, _cut(question.a_sampled)) if asked else "",
                "b": shown(question.b, _cut(question.b_sampled)) if asked else "",
                "waiting": self._closed or self.interview.waiting_for,
                "progress": self._progress(),
                "place": self._place(),
                "said": self._said,
                "problem": self._problems(),
            }
            rounds = self._rounds()
            if self.rounds_table.value != rounds:
                self.rounds_table.value = rounds

    def _progress(self) -> str:
        count = self.session.count
        words = f"{count('A', 'B', 'tie')} answered, {count('tie')} of them ties"
        words += f" · {count('skip')} skipped"
        if cut := sum(answer.question.cut for answer in self.session.answers):
            words += f" · {cut} of {2 * len(self.session.answers)} shown were cut at their limit"
        if agreement := self.agreement:
            same = round(agreement.mean * agreement.n)
            low, high = (f"{100 * end:.0f}" for end in (agreement.low, agreement.high))
            words += f" · the same answer as before to {same} of {agreement.n} questions asked "
            words += f"twice (95 % interval {low} to {high} %)"
        return words

    def _rounds(self) -> str:
        """The rounds as a table, once there are two."""
        models = {answer.question.model for answer in self.session.answers}
        return rounds_html(self.rounds, self._reward_fn is not None) if len(models) > 1 else ""

    def _place(self) -> str:
        pairs = len(self.session.pairs)
        return f"{pairs} pair{'' if pairs == 1 else 's'} in {self.session.file}"

    def _problems(self) -> str:
        parts = [self._problem, *self.session.notes]
        if self.interview.single_minded:
            parts.append(
                "The policy gives no two different answers to any prompt any more, so these are "
                "the reference's. Train with a larger beta."
            )
        if self.interview.given_up:
            listed = ", ".join(repr(prompt_text(text)[:40]) for text in self.interview.given_up)
            parts.append(f"The model gives no two different answers to {listed}.")
        if self.interview.error:
            parts.append(f"No more questions: {self.interview.error}")
        return "\n".join(part for part in parts if part)


def _cut(sampled: Sampled | None) -> bool:
    return sampled is not None and sampled.cut


REOPENED = "closed: the session was opened again"
_open: weakref.WeakValueDictionary[Path, Annotator] = weakref.WeakValueDictionary()


def _close_previous(session: Path) -> None:
    before = _open.get(session.resolve())
    if before is not None:
        before.close(REOPENED)
        before.view.children = [widgets.HTML(f"<p class='note'>{REOPENED}</p>")]
        free(*before.parts)


def _checked(prompts: Sequence[Text]) -> list[Text]:
    """The prompts without duplicates, checked to make rows that `load_preferences` can read.

    Raises:
        ValueError: If there is no prompt, or one makes no such row.
    """
    if isinstance(prompts, str) or not list(prompts):
        raise ValueError(f"prompts={prompts!r}: must be a list of prompts. Give at least one.")
    columns = dict(zip(COLUMNS, COLUMNS, strict=True))
    kept: list[Text] = []
    for number, prompt in enumerate(prompts, start=1):
        row = {"prompt": prompt, "chosen": answer_to(prompt, "a")}
        row["rejected"] = answer_to(prompt, "b")
        try:
            row_to_pair(number, row, columns)
        except UnusableRow as why:
            raise ValueError(
                f"prompts, {why.at(number)}. A prompt is a text, or a list of messages: fix it."
            ) from None
        if prompt not in kept:
            kept.append(prompt)
    return kept
