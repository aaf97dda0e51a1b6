"""Length, repetition, endings and diversity of sampled answers, before and after training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dpo_lab.data.pairs import Text
from dpo_lab.data.wilson import Z95
from dpo_lab.models.sampling import Completion, sample
from dpo_lab.training.job import Job
from dpo_lab.training.outcome import MeanCI

BLOCKS = 10
"""Blocks of answers in which distinct n-grams are counted: their spread gives an interval."""
_T95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
"""Student's t at 97.5 %, for 1 to `BLOCKS - 1` degrees of freedom."""


def repetition(ids: Sequence[int], n: int) -> float:
    """Share of an answer's n-grams that occurred earlier in it, `1 - distinct / all`.

    Args:
        ids: Token ids of one answer, without its end token.
        n: Length of the n-grams; an answer shorter than n has no repetition.

    Source:
        Welleck et al. 2019, "Neural Text Generation with Unlikelihood Training", seq-rep-n.
    """
    grams = _grams(ids, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(answers: Sequence[Sequence[int]], n: int) -> float:
    """Distinct n-grams of several answers over all their n-grams; it falls as answers are added.

    Args:
        answers: Token ids of the answers, without their end tokens.
        n: Length of the n-grams.

    Source:
        Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models",
        distinct-n.

    Note:
        The paper divides by the number of words. This divides by the number of n-grams, so that
        answers without repetition reach 1 for every n; for n = 1 both are the same.
    """
    grams = [gram for ids in answers for gram in _grams(ids, n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def _grams(ids: Sequence[int], n: int) -> list[tuple[int, ...]]:
    if n < 1:
        raise ValueError(f"n={n}: an n-gram holds at least one token. Give n >= 1.")
    return [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]


@dataclass(frozen=True)
class AnswerForm:
    """Length, repetition, endings and diversity of many answers, with 95 % intervals.

    Attributes:
        length: Tokens, without the end token.
        repetition: Mean share of repeated n-grams within an answer.
        ended: Share of answers that the model ended itself (Wilson's interval).
        distinct: Distinct n-grams over all, mean over `BLOCKS` random blocks of the answers
            (Student's interval over blocks); compare only equal numbers of answers. None if
            fewer than two blocks hold an n-gram.
        n: Length of the n-grams.
    """

    length: MeanCI
    repetition: MeanCI
    ended: MeanCI
    distinct: MeanCI | None
    n: int

    @classmethod
    def of(cls, completions: Sequence[Completion], n: int = 3) -> AnswerForm:
        """Measure answers.

        Args:
            completions: Answers drawn from one model.
            n: Length of the n-grams.

        Raises:
            ValueError: If there are fewer than two answers per block.
        """
        if len(completions) < 2 * BLOCKS:
            raise ValueError(
                f"{len(completions)} answers: intervals need at least {2 * BLOCKS}. Sample more."
            )
        answers = [c.ids[:-1] if c.ended else c.ids for c in completions]
        return cls(
            _mean([float(len(ids)) for ids in answers]),
            _mean([repetition(ids, n) for ids in answers]),
            MeanCI.of([float(completion.ended) for completion in completions]),
            _distinct_by_blocks(answers, n),
            n,
        )


def _distinct_by_blocks(answers: Sequence[Sequence[int]], n: int) -> MeanCI | None:
    """Mean over blocks of the answers; none if fewer than two blocks have a value."""
    # Shuffled: if prompts repeat every ten answers, a block would hold one prompt's answers only.
    order = torch.randperm(len(answers), generator=torch.Generator().manual_seed(0)).tolist()
    blocks = [distinct([answers[i] for i in order[k::BLOCKS]], n) for k in range(BLOCKS)]
    values = [value for value in blocks if math.isfinite(value)]
    return _mean(values, _T95[len(values) - 2]) if len(values) > 1 else None


def _mean(values: Sequence[float], errors: float = Z95) -> MeanCI:
    """Mean plus or minus some standard errors, even if every value is 0 or 1.

    Wilson's interval would not apply: these values are not Bernoulli draws.
    """
    column = torch.tensor(values, dtype=torch.float64)
    mean, half = column.mean().item(), errors * (column.std() / math.sqrt(len(values))).item()
    return MeanCI(mean, mean - half, mean + half, len(values))


def before_and_after(
    job: Job, prompts: Sequence[Text], *, max_new_tokens: int | None = None, seed: int = 0
) -> tuple[list[Completion], list[Completion]]:
    """Sample answers of reference and policy to the same prompts, at temperature 1.

    Args:
        job: A job whose policy has been trained.
        prompts: The prompts; a repeated prompt gets independent answers.
        max_new_tokens: Maximum tokens of an answer; by default that of `sample`.
        seed: Seed of both: where the models agree, so do the answers.
    """
    ids = job.policy.encoder.prompts(prompts)
    limits = {"max_new_tokens": max_new_tokens, "seed": seed}
    with job.reference.active() as reference:
        before = sample(reference.language_model, ids, **limits)
    return before, sample(job.policy, ids, **limits)
