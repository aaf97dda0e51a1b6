"""A simulated annotator with a known reward function, to measure a session's results against."""

from __future__ import annotations

from typing import Literal

import torch

from dpo_lab.annotation.questions import Choice, Question
from dpo_lab.data.builtin import RewardFn
from dpo_lab.data.pairs import prompt_text
from dpo_lab.objective.bradley_terry import sample_preferences


class SimulatedAnnotator:
    """Answers questions by a known reward function.

    Args:
        taste: The reward, of `(prompt, answer)`.
        labels: `sampled` from Bradley-Terry with the rewards, since people are inconsistent; or
            `better`: the higher reward always wins.
        tie_within: Two rewards no further apart than this are a tie; below 0 there are no ties.
        seed: Seed of the sampled labels.

    Raises:
        ValueError: If there are no such labels.

    Source:
        Bradley and Terry 1952; Rafailov et al. 2023, Eq. 1.
    """

    def __init__(
        self,
        taste: RewardFn,
        *,
        labels: Literal["sampled", "better"] = "sampled",
        tie_within: float = 0.0,
        seed: int = 0,
    ):
        if labels not in ("sampled", "better"):
            raise ValueError(f"labels={labels!r}: unknown. Use 'sampled' or 'better'.")
        self.taste, self.labels, self.tie_within = taste, labels, tie_within
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, question: Question) -> Choice:
        """The choice for a question."""
        prompt, texts = prompt_text(question.prompt), (question.a, question.b)
        a, b = torch.tensor([self.taste(prompt, text) for text in texts], dtype=torch.float64)
        if (a - b).abs() <= self.tie_within:
            return "tie"
        if self.labels == "better":
            return "A" if a > b else "B"
        return "A" if sample_preferences(a, b, self._generator) else "B"
