"""Questions of an annotation session, two answers side by side, and the choices made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from dpo_lab.data.pairs import Text, pair_row
from dpo_lab.data.sampled import Sampled

Choice = Literal["A", "B", "tie", "skip"]
CHOICES = get_args(Choice)
_SAMPLED = ("a_sampled", "b_sampled")


@dataclass(frozen=True)
class Question:
    """Two answers side by side, as they were shown.

    Attributes:
        number: Number of the question in its session, from 1.
        prompt: Text, or messages.
        a: The answer on the left.
        b: The answer on the right.
        draw: Number of the draw that gave the two answers.
        model: The model that answered: its name and the first digits of its weights' hash.
        repeats: Number of the earlier question that this one asks again with its sides swapped.
        a_sampled: The sampled ids of the left answer, which training scores; none in old logs that
            did not keep them.
        b_sampled: The same for the right answer.
    """

    number: int
    prompt: Text
    a: str
    b: str
    draw: int
    model: str = ""
    repeats: int | None = None
    a_sampled: Sampled | None = None
    b_sampled: Sampled | None = None

    @property
    def cut(self) -> int:
        """How many of the two answers were cut at the length limit."""
        sides = (self.a_sampled, self.b_sampled)
        return sum(sampled is not None and sampled.cut for sampled in sides)

    def swapped(self, number: int) -> Question:
        """The same question under another number, with its sides swapped."""
        return replace(
            self,
            number=number,
            a=self.b,
            b=self.a,
            a_sampled=self.b_sampled,
            b_sampled=self.a_sampled,
            repeats=self.number,
        )

    @classmethod
    def from_dict(cls, line: Mapping[str, Any]) -> Question:
        """The question in a line of the log.

        Raises:
            LookupError: If a field is missing.
            ValueError: If the ids of an answer are invalid.
        """
        names = [field.name for field in fields(cls) if field.name not in _SAMPLED]
        sampled = {side: line.get(side) for side in _SAMPLED}
        sampled = {side: value and Sampled.from_dict(value) for side, value in sampled.items()}
        return cls(**{name: line[name] for name in names}, **sampled)


@dataclass(frozen=True)
class Answer:
    """A question and the choice that was clicked.

    Attributes:
        question: The question.
        choice: The better side, tie (neither is better) or skip (no answer).
    """

    question: Question
    choice: Choice

    @property
    def winner(self) -> str | None:
        """The text that was preferred; none after a tie or a skip."""
        return {"A": self.question.a, "B": self.question.b}.get(self.choice)

    @property
    def row(self) -> dict[str, Any] | None:
        """The preference pair; none after a tie or a skip, which train nothing."""
        if self.winner is None:
            return None
        asked, order = self.question, 1 if self.choice == "A" else -1
        texts, sampled = (asked.a, asked.b)[::order], (asked.a_sampled, asked.b_sampled)[::order]
        return pair_row(asked.prompt, *texts, *sampled)
