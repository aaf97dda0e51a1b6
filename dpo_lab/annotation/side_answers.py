"""One model's answers to a list of prompts, kept on disk so that a kill loses no block of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dpo_lab.annotation.click_log import append, begin, mend_end
from dpo_lab.data.pairs import PromptFormat, Text
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.sampling import sample
from dpo_lab.models.weights import weights_fingerprint

BLOCK = 16
"""Prompts answered between two writes to disk."""


@dataclass(frozen=True)
class Sampling:
    """How both models answer.

    Attributes:
        max_new_tokens: Most tokens of an answer.
        temperature: 0 is greedy, 1 draws from the model itself.
        seed: Seed of the draws.
        samples: Answers to each prompt.
        prompt_format: How a prompt of text is given to the model: auto, chat or plain.

    Raises:
        ValueError: If there are to be several greedy answers to a prompt, which are all the same.
    """

    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    samples: int = 1
    prompt_format: PromptFormat = "auto"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples={self.samples}: must be at least 1.")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples={self.samples}: at temperature 0 all answers to a prompt are the same. "
                "Set the temperature to 1, or samples to 1."
            )

    def of_b(self) -> Sampling:
        """The same for model B, with draws that are independent of A's."""
        return replace(self, seed=self.seed + 1)


@dataclass(frozen=True)
class AnswerPair:
    """An answer of model A and one of model B to the same prompt.

    Attributes:
        number: From 0.
        prompt: Text, or messages.
        a: A's answer.
        b: B's answer.
        a_cut: Whether A's was cut at the length limit.
        b_cut: Whether B's was.
    """

    number: int
    prompt: Text
    a: str
    b: str
    a_cut: bool = False
    b_cut: bool = False

    @property
    def same(self) -> bool:
        """Whether both say the same: a tie, about which nobody is asked."""
        return self.a.strip() == self.b.strip()


class SideAnswers:
    """Answers of one model to prompts, in their order; a file with one line each.

    Args:
        path: The file; one that is there is continued.
        model: The model.
        prompts: Texts, or lists of messages.
        sampling: How it answers.

    Attributes:
        answers: `(text, cut)` of each answer so far, `samples` to a prompt.
        notes: What was wrong in the file, in words.

    Raises:
        FileExistsError: If the file holds answers of another model, or to other prompts.
        ValueError: If a line of it was changed.
    """

    def __init__(
        self, path: Path, model: LanguageModel, prompts: Sequence[Text], sampling: Sampling
    ):
        self.path, self.sampling = path, sampling
        self._model: LanguageModel | None = model
        self.prompts = [prompt for prompt in prompts for _ in range(sampling.samples)]
        head = {"weights": weights_fingerprint(model.base), "prompts": _digest(prompts)}
        head |= asdict(sampling)
        self.answers: list[tuple[str, bool]] = []
        self.notes: list[str] = []
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            begin(path)
            append(path, head)
            return
        if note := mend_end(path):
            self.notes.append(note)
        first, *lines = path.read_text().splitlines() or [""]
        if not first:  # a kill came between the file and its first line
            append(path, head)
        elif json.loads(first) != head:
            raise FileExistsError(
                f"{path}: holds answers of other weights, to other prompts or drawn in another "
                "way. Give another folder, or remove this one."
            )
        try:
            self.answers = [(line["text"], line["cut"]) for line in map(json.loads, lines)]
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{path}: a line is broken ({error}). Remove the file.") from None

    @property
    def complete(self) -> bool:
        """Whether every prompt is answered."""
        return len(self.answers) >= len(self.prompts)

    def draw_block(self, size: int = BLOCK) -> None:
        """Answer the next prompts; on disk when this returns.

        Every answer has random numbers of its own, so that the blocks change nothing.

        Args:
            size: How many.

        Raises:
            RuntimeError: If the model was released.
        """
        model = self._model
        if model is None:
            raise RuntimeError(f"{self.path}: its model was released. Open it again with a model.")
        numbers = range(len(self.answers), min(len(self.answers) + size, len(self.prompts)))
        asked = model.encoder.as_prompts(
            [self.prompts[number] for number in numbers], self.sampling.prompt_format
        )
        drawn = sample(
            model,
            model.encoder.prompts(asked),
            max_new_tokens=self.sampling.max_new_tokens,
            temperature=self.sampling.temperature,
            seed=self.sampling.seed,
            numbers=numbers,
        )
        for answer in drawn:
            append(self.path, {"text": answer.text, "cut": not answer.ended})
            self.answers.append((answer.text, not answer.ended))

    def release(self) -> None:
        """Let go of the model, so that its memory can be used for another."""
        self._model = None

    def draw(self, progress: Callable[[int, int], None] | None = None) -> SideAnswers:
        """Answer all prompts that are not answered yet.

        Args:
            progress: Called with `(done, total)` answers.
        """
        while not self.complete:
            self.draw_block()
            if progress:
                progress(len(self.answers), len(self.prompts))
        return self


def answer_pairs(a: SideAnswers, b: SideAnswers) -> list[AnswerPair]:
    """The answers of both models so far, side by side."""
    both = min(len(a.answers), len(b.answers))
    return [
        AnswerPair(number, prompt, one, other, cut, other_cut)
        for number, (prompt, (one, cut), (other, other_cut)) in enumerate(
            zip(a.prompts[:both], a.answers[:both], b.answers[:both], strict=True)
        )
    ]


def _digest(prompts: Sequence[Text]) -> str:
    return hashlib.blake2b(json.dumps(list(prompts)).encode(), digest_size=8).hexdigest()
