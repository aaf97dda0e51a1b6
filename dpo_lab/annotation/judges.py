"""Judges that compute: a reward, and a simulated judge whose bias is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from dpo_lab.annotation.questions import Choice, Question
from dpo_lab.data.builtin import RewardFn
from dpo_lab.data.pairs import answer_to, prompt_text
from dpo_lab.models.reward import RewardEnsemble, RewardModel


@dataclass(frozen=True)
class RewardJudge:
    """Prefers the answer of higher reward; it sees no order.

    Attributes:
        reward_fn: A reward model, an ensemble, or a function of `(prompt, answer)`.
        tie_within: Two rewards no further apart than this are a tie.
    """

    reward_fn: RewardFn | RewardModel | RewardEnsemble
    tie_within: float = 0.0

    def __call__(self, question: Question) -> Choice:
        """The side of higher reward; skip if a reward is no number."""
        a, b = self.rewards(question)
        if math.isnan(a - b):
            return "skip"
        if abs(a - b) <= self.tie_within:
            return "tie"
        return "A" if a > b else "B"

    def rewards(self, question: Question) -> tuple[float, float]:
        """Rewards of the left and of the right answer."""
        reward, prompt, texts = self.reward_fn, question.prompt, (question.a, question.b)
        if isinstance(reward, RewardModel | RewardEnsemble):  # which reads whole conversations
            prompts = [reward.encoder.as_prompt(prompt)] * 2
            answers = [answer_to(prompts[0], text) for text in texts]
            a, b = reward.rewards_of(prompts, answers).tolist()
        else:
            a, b = (float(reward(prompt_text(prompt), text)) for text in texts)
        return a, b


@dataclass(frozen=True)
class BiasedJudge:
    """A simulated judge: the logit of "left is better" is a sum of known effects.

    The verdict on a question is always the same, so that it can be asked again after a kill.

    Attributes:
        quality: Of `(prompt, answer)`; the difference of both is added to the logit.
        first: Added for the left answer, which is read first.
        longer: Times `tanh(extra characters of the left / scale)`.
        scale: Of lengths, characters.
        ties: Share of verdicts that are ties.
        seed: Seed of the verdicts.

    Source:
        Bradley and Terry 1952; the place as in Davidson and Beaver 1977.
    """

    quality: RewardFn
    first: float = 0.0
    longer: float = 0.0
    scale: float = 20.0
    ties: float = 0.0
    seed: int = 0

    def __call__(self, question: Question) -> Choice:
        """The verdict."""
        random = Random(f"{self.seed} {question.number}")
        if random.random() < self.ties:
            return "tie"
        prompt = prompt_text(question.prompt)
        extra = len(question.a) - len(question.b)
        logit = self.quality(prompt, question.a) - self.quality(prompt, question.b)
        logit += self.first + self.longer * math.tanh(extra / self.scale)
        return "A" if random.random() < 1 / (1 + math.exp(-logit)) else "B"
