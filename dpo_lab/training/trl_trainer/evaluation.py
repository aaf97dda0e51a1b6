"""`evaluate` of the trainer: on the data set that it has, or on another."""

from __future__ import annotations

from dataclasses import replace

from dpo_lab.data.preferences import Preferences
from dpo_lab.training.evaluation import evaluate, logps_of
from dpo_lab.training.job import Job
from dpo_lab.training.pairs import PairsWithReference
from dpo_lab.training.setup import tokenize
from dpo_lab.training.trl_trainer.inputs import prompt_format


def on_other_pairs(job: Job, pairs: Preferences) -> Job:
    """The job with other held-out pairs and prompts, scored by the reference now."""
    config = replace(job.config, prompt_format=prompt_format(pairs))
    encoder = job.policy.encoder
    tokens = tokenize(config, pairs, job.policy.tokenizer, encoder.vocabulary)
    with job.reference.active() as scorer:
        values = logps_of(job, scorer, tokens.pairs)
    kept = {pair.row for pair in tokens}
    usable = replace(pairs, pairs=tuple(pair for pair in pairs if pair.row in kept))
    return replace(
        job,
        held_out=PairsWithReference.of(tokens, range(len(tokens)), values),
        prompts=encoder.as_prompts(usable.prompts, config.prompt_format),
        reference_answers=[],
        listed_pairs=None,
    )


def measured(job: Job, step: int) -> dict[str, float]:
    """Metrics of an evaluation after a step, by the keys of a record."""
    seed = job.config.seed * 1_000_003 + step
    return evaluate(job, job.live.beta, seed, moved=step > 0)
