"""What a person is asked, two answers side by side, and what was clicked."""

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
        number: Of the question in its session, from 1.
        prompt: Text, or messages.
        a: The answer on the left.
        b: The answer on the right.
        draw: Number of the draw that gave the two answers.
        model: Whose answers they are: name and the first letters of the weights' hash.
        repeats: Number of the earlier question that this one asks again with its sides swapped.
        a_sampled: The ids of the answer on the left, which training scores; none in a log from
            before they were kept.
        b_sampled: The same of the answer on the right.
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
        """How many of its two answers were cut at their length limit."""
        return sum(one is not None and one.cut for one in (self.a_sampled, self.b_sampled))

    def swapped(self, number: int) -> Question:
        """The same question asked again under another number, its sides swapped."""
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
        """The question of a line of the log.

        Raises:
            LookupError: If a field is missing.
            ValueError: If the ids of an answer are none.
        """
        names = [field.name for field in fields(cls) if field.name not in _SAMPLED]
        sampled = {side: line.get(side) for side in _SAMPLED}
        sampled = {side: value and Sampled.from_dict(value) for side, value in sampled.items()}
        return cls(**{name: line[name] for name in names}, **sampled)


@dataclass(frozen=True)
class Answer:
    """A question and what was clicked.

    Attributes:
        question: The question.
        choice: The side that is better, tie (they are alike) or skip (no answer at all).
    """

    question: Question
    choice: Choice

    @property
    def winner(self) -> str | None:
        """The text that was preferred; none after a tie or a skip."""
        return {"A": self.question.a, "B": self.question.b}.get(self.choice)

    @property
    def row(self) -> dict[str, Any] | None:
        """As a preference pair; none after a tie or a skip, which train nothing."""
        if self.winner is None:
            return None
        one, way = self.question, 1 if self.choice == "A" else -1
        texts, sampled = (one.a, one.b)[::way], (one.a_sampled, one.b_sampled)[::way]
        return pair_row(one.prompt, *texts, *sampled)
