"""Questions of one model: two different answers to each prompt, drawn a block at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dpo_lab.annotation.candidates import prompt_of_draw, two_answers
from dpo_lab.annotation.questions import Question
from dpo_lab.data.pairs import Text
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.sampling import Completion

AHEAD = 4
"""Pairs of answers kept ready, and sampled in one batch: hardly slower than sampling one pair."""
TRIES = 8
"""Draws after which a prompt is given up, since the model seems to have only one answer to it."""


@dataclass
class QuestionSource:
    """Draws questions of a model; with the same values always the same ones.

    Attributes:
        model: The model.
        name: What its questions say of who answered.
        prompts: Prompts in the form in which the model gets them.
        seed: Seed of the answers and of the order of prompts.
        max_new_tokens: Maximum tokens of an answer.
        given_up: Prompts to which the model gave no two different answers.
    """

    model: LanguageModel
    name: str
    prompts: Sequence[Text]
    seed: int
    max_new_tokens: int
    given_up: list[Text] = field(default_factory=list)

    @property
    def exhausted(self) -> bool:
        """Whether every prompt is given up."""
        return all(prompt in self.given_up for prompt in self.prompts)

    def block(self, number: int) -> list[Question | None]:
        """The questions of one block of `AHEAD` draws; none for a prompt that is given up."""
        numbers = range(number * AHEAD, (number + 1) * AHEAD)
        asked = [prompt_of_draw(self.prompts, draw, self.seed) for draw in numbers]
        pairs = self._two_answers(asked, f"{self.seed} block {number}")
        for index, (draw, prompt) in enumerate(zip(numbers, asked, strict=True)):
            for attempt in range(1, TRIES):
                if pairs[index] or prompt in self.given_up:
                    break
                (pairs[index],) = self._two_answers([prompt], f"{self.seed} {draw} {attempt}")
            if not pairs[index] and prompt not in self.given_up:
                self.given_up.append(prompt)
        return [
            self._question(prompt, draw, *pair) if pair else None
            for draw, prompt, pair in zip(numbers, asked, pairs, strict=True)
        ]

    def _question(self, prompt: Text, draw: int, a: Completion, b: Completion) -> Question:
        """A new question; its number is set when it is asked."""
        sampled = {"a_sampled": a.sampled, "b_sampled": b.sampled}
        return Question(0, prompt, a.text, b.text, draw, self.name, **sampled)

    def _two_answers(
        self, prompts: Sequence[Text], seed: str
    ) -> list[tuple[Completion, Completion] | None]:
        return two_answers(self.model, prompts, seed=seed, max_new_tokens=self.max_new_tokens)
