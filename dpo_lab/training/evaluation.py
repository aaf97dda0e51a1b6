"""Evaluation between steps: metrics on held-out pairs, KL on samples of the policy, answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle, islice

import torch
from torch import Tensor

from dpo_lab.data.builtin import RewardFn
from dpo_lab.data.pair_ids import TokenizedPair
from dpo_lab.data.pair_sequences import PairSequences
from dpo_lab.data.pairs import Text, prompt_text
from dpo_lab.models.kl import measure_kl
from dpo_lab.models.sampling import Completion
from dpo_lab.models.scoring import LogpScorer, pair_logps, score_sequences
from dpo_lab.objective.kl import Estimate
from dpo_lab.objective.registry import find_loss, loss_and_grads
from dpo_lab.training.answers import draw, rewards_of
from dpo_lab.training.exact_metrics import listed_values
from dpo_lab.training.job import Job, Progress, naming
from dpo_lab.training.methods import METHODS
from dpo_lab.training.metrics import pair_metrics
from dpo_lab.training.records import SampleRecord
from dpo_lab.training.start_check import at_start
from dpo_lab.training.unpaired_baseline import kto_baseline
from dpo_lab.training.unpaired_metrics import margin_stderr, unpaired_metrics


def evaluate(
    job: Job,
    beta: float,
    seed: int,
    progress: Progress | None = None,
    *,
    moved: bool = True,
    listed: bool = True,
) -> dict[str, float]:
    """Metrics of an evaluation.

    Args:
        job: The run's job.
        beta: The beta in use.
        seed: Seed of the policy's samples.
        progress: Called with the current work, how much is done, and the total.
        moved: False before the first step, where held-out pairs are exact ties.
        listed: Whether to sum over all answers, if they can be listed.

    Returns:
        On held-out pairs, `eval/...` as in `metrics.py`, their number `eval/pairs` (of single
        responses `eval/responses`), and `eval/rewards/margins_stderr`. On samples of the policy,
        `kl/per_token` (sum of exact per-token KLs) and `kl/k1`, from `kl/n` answers to `kl/prompts`
        prompts, of which the share `kl/cut` was cut at the length limit (then the KLs are lower
        bounds); `entropy/policy`, nats per token; `score/policy`, their ground-truth score, if
        there is one; and `proxy/policy`, what a reward model that rates answers in training gives
        them. If all answers can be listed, `listed/...` of `listed_values`, exact. Means over
        samples have `_stderr`, for prompts like these, and if each prompt has several samples,
        `_stderr_samples`, for only these prompts (see `Estimate`).
    """
    config, values = job.config, {}
    if job.held_out is not None:
        scoring = naming(progress, "held-out responses")
        batch = job.held_out.batch(range(len(job.held_out)))
        pairs = batch.logps.with_policy(*logps_of(job, job.scorer, batch.pairs, scoring))
        pairs = pairs if moved else at_start(pairs, config.precision)
        loss, options = config.loss_function, config.loss_options
        if loss.unpaired:
            kto = loss is find_loss("kto")
            baseline = kto_baseline(job, batch.pairs) if kto and moved else job.baseline
            pairs = replace(pairs, baseline=baseline)
        losses, grads = loss_and_grads(loss, pairs, beta, **options)
        if loss.unpaired:
            metrics = unpaired_metrics(losses, pairs, (grads[1] - grads[0]) / beta, beta)
        else:
            metrics = pair_metrics(losses, pairs, -grads[0] / beta, beta)
        if METHODS[config.method].gradient is not None:  # which descends no loss of pairs
            del metrics["loss"], metrics["gradient_weight"]
        values |= {f"eval/{name}": value for name, value in metrics.items()}
        error = margin_stderr(pairs) if loss.unpaired else Estimate.of(pairs.margins).stderr
        count = "eval/responses" if loss.unpaired else "eval/pairs"
        values |= {"eval/rewards/margins_stderr": beta * error, count: len(losses)}
    if job.prompts and config.kl_samples:
        prompts = list(islice(cycle(job.prompts), config.kl_samples))
        answering = naming(progress, "answers for KL")
        completions = draw(job, job.policy, prompts, seed, answering)
        budget, processes = config.micro_batch_tokens, job.processes
        kl = measure_kl(job.scorer, job.reference, completions, budget, processes)
        values |= _with_errors("kl/per_token", kl.per_token) | _with_errors("kl/k1", kl.k1)
        values |= {"kl/n": kl.per_token.n, "kl/prompts": kl.per_token.prompts, "kl/cut": kl.cut}
        values |= {"entropy/policy": kl.entropy}
        if job.reward_fn:
            values |= _score_values("score/policy", job, job.reward_fn, prompts, completions)
        if job.training_reward and job.training_reward is not job.reward_fn:
            rates = job.training_reward
            values |= _score_values("proxy/policy", job, rates, prompts, completions)
        if listed:
            if job.policy.shards:  # every process takes part with its weights
                values |= listed_values(job, completions)
            else:
                values |= processes.from_first(lambda: listed_values(job, completions))
    return _finite(values)


def logps_of(
    job: Job,
    scorer: LogpScorer,
    pairs: Sequence[TokenizedPair],
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Log-probabilities of pairs under one model, as the job's loss uses them.

    Args:
        job: Its configuration gives the tokens per pass and `ld_alpha`.
        scorer: Scorer of the policy or of the reference.
        pairs: The pairs.
        progress: Called with `(done, total)` responses.

    Returns:
        `(2, pairs)`, of chosen and of rejected, nats.
    """
    sequences = PairSequences.of(pairs, cut=job.config.ld_alpha is not None)
    budget, processes = job.config.micro_batch_tokens, job.processes
    logps = score_sequences(scorer, sequences.scored, budget, progress, processes)
    return pair_logps(sequences, sequences.spread(logps), job.config.ld_alpha)


def reference_score(job: Job, seed: int) -> dict[str, float]:
    """`score/reference`, `_stderr`: ground-truth score of the reference's own samples, if any.

    With the seed of the first evaluation its answers are the policy's, since the two are equal.
    """
    if not (job.reward_fn and job.prompts and job.config.kl_samples):
        return {}
    prompts = list(islice(cycle(job.prompts), job.config.kl_samples))
    with job.reference.active() as reference:
        completions = draw(job, reference.language_model, prompts, seed)
    return _finite(_score_values("score/reference", job, job.reward_fn, prompts, completions))


def answers(job: Job, step: int) -> list[SampleRecord]:
    """Greedy answers of reference and policy to the first held-out prompts."""
    prompts = job.prompts[: job.config.sample_prompts]
    if not prompts:
        return []
    policy = draw(job, job.policy, prompts, 0, temperature=0)
    if not job.reference_answers:
        with job.reference.active() as scorer:
            model = scorer.language_model
            job.reference_answers = draw(job, model, prompts, 0, temperature=0)
    return [
        SampleRecord(
            step,
            prompt_text(prompt),
            before.text,
            after.text,
            job.reward_fn and job.reward_fn(prompt_text(prompt), before.text),
            job.reward_fn and job.reward_fn(prompt_text(prompt), after.text),
            not before.ended,
            not after.ended,
        )
        for prompt, before, after in zip(prompts, job.reference_answers, policy, strict=True)
    ]


def samples_cut(samples: Sequence[SampleRecord]) -> dict[str, float]:
    """`samples/cut`: share of the policy's shown answers that were cut at the length limit."""
    cut = [sample.policy_cut for sample in samples]
    return {"samples/cut": sum(cut) / len(cut)} if cut else {}


def _with_errors(name: str, estimate: Estimate) -> dict[str, float]:
    errors = {"_stderr": estimate.stderr, "_stderr_samples": estimate.stderr_samples}
    return {name: estimate.mean} | {name + end: error for end, error in errors.items()}


def _finite(values: dict[str, float]) -> dict[str, float]:
    """The finite values: those not measured, like the standard error of one sample, are NaN."""
    return {key: value for key, value in values.items() if math.isfinite(value)}


def _score_values(
    name: str,
    job: Job,
    reward: RewardFn,
    prompts: Sequence[Text],
    completions: Sequence[Completion],
) -> dict[str, float]:
    values = rewards_of(job, reward, prompts, completions)
    return _with_errors(name, Estimate.of(torch.tensor(values), [c.prompt for c in completions]))
