"""A run's gradient with something exact in it: what training would do without that error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dpo_lab.data.pair_ids import TokenizedPair
from dpo_lab.data.pairs import prompt_text
from dpo_lab.data.token_ids import plain_ids
from dpo_lab.data.tokenized_pairs import TokenizedPairs
from dpo_lab.models.response_space import ResponseSpace
from dpo_lab.objective.bradley_terry import preference_probability
from dpo_lab.objective.pair_logps import PairLogps
from dpo_lab.training.evaluation import logps_of
from dpo_lab.training.job import Job
from dpo_lab.training.online_pairs import OnlinePairs
from dpo_lab.training.pair_gradient import PairGradient, PairOutcome
from dpo_lab.training.pairs import PairBatch, PairsWithReference
from dpo_lab.training.step_gradient import StepGradient

MORE = 16
"""Times as many pairs in a step of `LargeFreshBatches`."""
PROMPTS = 2
"""Prompts in a step of `ExactObjective`, each with all its answers: a tenth of a second each."""


class KnownLabels(PairGradient):
    """Pairs whose loss is its mean over the label, of which the true reward gives the probability.

    `p L(w, l) + (1 - p) L(l, w)`, with p from Bradley-Terry: the drawn label has no part.
    """

    def losses(self, batch: PairBatch, pairs: PairLogps, beta: float) -> Tensor:
        """As `PairGradient.losses`."""
        first = torch.tensor([first_wins(self.job, pair) for pair in batch.pairs])
        turned = super().losses(batch, pairs.turned, beta)
        return first * super().losses(batch, pairs, beta) + (1 - first) * turned


def first_wins(job: Job, pair: TokenizedPair) -> float:
    """The probability that Bradley-Terry with a job's true reward gives a pair's label."""
    prompt, *sides = (
        job.policy.tokenizer.decode(plain_ids(ids), skip_special_tokens=True).strip()
        for ids in (pair.prompt, pair.chosen, pair.rejected)
    )
    rewards = torch.tensor([job.reward_fn(prompt, side) for side in sides])
    return preference_probability(*rewards).item()


class SampledWithKnownLabels(KnownLabels, OnlinePairs):
    """Online DPO without the noise of drawn labels."""


class _OfAllAnswers(StepGradient):
    """A gradient that looks at every answer of the reference."""

    @cached_property
    def world(self) -> ResponseSpace:
        """All answers of the reference to the training prompts."""
        prompts = list(dict.fromkeys(map(prompt_text, self.job.train_prompts)))
        with self.job.reference.active() as frozen:
            return ResponseSpace.of(frozen.language_model, prompts, self.job.reward_fn)


class FreshPairs(_OfAllAnswers, KnownLabels):
    """Other pairs of listed answers in every step, so that no answer is left out for good.

    Both answers are drawn half from the reference, half from its fourth root.
    """

    times = 1

    def accumulate(self, indices: Sequence[int], step: int, beta: float) -> PairOutcome:
        """As `StepGradient.accumulate`; of the batch's pairs only the prompts are used."""
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        row_of = {prompt: row for row, prompt in enumerate(self.world.prompts)}
        prompts = [prompt_text(self.job.train_prompts[index]) for index in indices] * self.times
        rows = torch.tensor([row_of[prompt] for prompt in prompts])
        said = torch.tensor([bool(text) for text in self.world.responses])
        weights = self.world.said_and_rare[rows] * said
        drawn = torch.multinomial(weights, 2, generator=generator)  # without repeating one
        encoder, texts = self.job.policy.encoder, self.world.responses
        sides = [
            encoder.encode(prompts, [texts[column] for column in side.tolist()]) for side in drawn.T
        ]
        pairs = [
            TokenizedPair(first.prompt, first.response, second.response, row)
            for row, (first, second) in enumerate(zip(*sides, strict=True))
        ]
        with torch.no_grad(), self.job.reference.active() as frozen:
            reference = logps_of(self.job, frozen, pairs)
        every = range(len(pairs))
        source = PairsWithReference.of(TokenizedPairs(tuple(pairs)), every, reference)
        return self.descend(source, every, beta)


class LargeFreshBatches(FreshPairs):
    """The same with so many pairs in a step that the draw hardly matters."""

    times = MORE


@dataclass(frozen=True)
class ExactOutcome:
    """What a step of `ExactObjective` has found.

    Attributes:
        objective: J at the step's prompts.
        tokens: Next-token distributions computed.
    """

    objective: float
    tokens: int

    def metrics(self, beta: float, *, first: bool) -> dict[str, float]:
        """As `Outcome.metrics`."""
        return {"objective": self.objective}


class ExactObjective(_OfAllAnswers):
    """The exact gradient of J at the prompts of a step: every answer, in place of samples."""

    def accumulate(self, indices: Sequence[int], step: int, beta: float) -> ExactOutcome:
        """As `StepGradient.accumulate`."""
        kept = dict.fromkeys(prompt_text(self.job.train_prompts[index]) for index in indices)
        world = self.world.at([self.world.prompts.index(p) for p in list(kept)[:PROMPTS]])
        objective = world.objective(self.job.policy, beta)
        (-objective).backward()
        return ExactOutcome(objective.item(), world.rewards.numel())
