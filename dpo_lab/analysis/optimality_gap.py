"""Where the gap to pi* comes from: a run is trained again with one exact thing after another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from dpo_lab.analysis.exact_gradients import (
    ExactObjective,
    FreshPairs,
    KnownLabels,
    LargeFreshBatches,
    SampledWithKnownLabels,
    first_wins,
)
from dpo_lab.data.builtin import RewardFn
from dpo_lab.data.preferences import Preferences
from dpo_lab.models.response_space import ResponseSpace
from dpo_lab.models.reward import RewardModel, new_reward_model
from dpo_lab.objective.optimum import rlhf_objective
from dpo_lab.objective.registry import all_options
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.exact_metrics import world_of
from dpo_lab.training.job import Job, Progress
from dpo_lab.training.loop import train
from dpo_lab.training.methods import TRUTH
from dpo_lab.training.policy import ready_policy
from dpo_lab.training.reward import RewardTraining, train_reward_model
from dpo_lab.training.setup import prepare
from dpo_lab.training.step_gradient import StepGradient

NOISE = "label noise"
COVERAGE = "coverage of the pairs"
ESTIMATOR = "estimator"
OPTIMISATION = "optimisation"


@dataclass(frozen=True)
class GapPart:
    """What an exact thing in place of the run's own gains.

    Attributes:
        name: What it is.
        words: What was put in its place.
        gain: J after it less J before it; below 0 where it happened to do worse.
    """

    name: str
    words: str
    gain: float


@dataclass(frozen=True)
class OptimalityGap:
    """How far a policy is from pi*, and why.

    Attributes:
        objective: J of the run's policy, exact.
        best: J of pi*.
        parts: They sum to `whole`.
    """

    objective: float
    best: float
    parts: tuple[GapPart, ...]

    @property
    def whole(self) -> float:
        """`J(pi*) - J(policy)`, which is `beta KL(policy || pi*)`."""
        return self.best - self.objective


class _Swap(NamedTuple):
    """A training with one more exact thing in it; what is None is the method's own."""

    name: str
    words: str
    config: TrainConfig
    gradient: type[StepGradient] | None = None
    reward: RewardFn | None = None


def optimality_gap(
    job: Job,
    *,
    data: Preferences | Iterable[Mapping] | None = None,
    reward_training: RewardTraining | None = None,
    progress: Progress | None = None,
) -> OptimalityGap:
    """Split the gap between a trained policy and pi* into its causes.

    The run is trained again from its reference, each time with one more exact thing:

    | part | pairs (DPO) | own answers, true reward | own answers, reward model |
    |---|---|---|---|
    | label noise | probabilities for labels | the same (online DPO) | the same, of the model |
    | coverage of the pairs | fresh pairs in every step | - | the true reward for the model's |
    | estimator | DPO's loss on 16 times the pairs | the exact gradient of J | the same |
    | optimisation | pi* for the last policy | the same | the same |

    J is exact, over all listed answers to the held-out prompts. The order matters where causes
    interact, and each part has the noise of one training run.

    Args:
        job: A finished job of a built-in model, whose answers can be listed.
        data: The pairs that it was prepared with, if not those that its configuration names.
        reward_training: How its reward model was trained, if one rated its answers; by default as
            `RewardTraining.for_model` says.
        progress: Called with the current work, how much is done, and the total.

    Raises:
        ValueError: If its answers cannot be listed, its method has no such split, or its pairs or
            its model are not those that its settings name.
    """
    config = replace(job.config, eval_every=0, beta=job.live.beta, reward=TRUTH)
    world = world_of(job)
    loss = config.loss_function
    if world is None or config.method == "sft" or loss.couples_pairs or loss.unpaired:
        raise ValueError(
            "the gap of this run cannot be split: it takes a model such as 'micro', whose answers "
            "can be listed, a true reward, and a method other than sft, with a loss of single "
            "pairs. Use such a run."
        )
    if isinstance(data, Iterable) and not isinstance(data, Preferences):
        data = list(data)
    found = [_objective(world, job, config.beta)]
    swaps = _swaps(job, config, reward_training, progress)
    for swap in swaps:
        found.append(_objective(world, _trained(swap, job, data, progress), config.beta))
    star = world.frontier.at(config.beta)
    found.append(star.reward - config.beta * star.kl)
    named = [(swap.name, swap.words) for swap in swaps] + [(OPTIMISATION, "π* itself")]
    parts = [
        GapPart(*what, after - before)
        for what, before, after in zip(named, found[:-1], found[1:], strict=True)
    ]
    return OptimalityGap(found[0], found[-1], tuple(parts))


def _swaps(
    job: Job, config: TrainConfig, how: RewardTraining | None, progress: Progress | None
) -> list[_Swap]:
    known = "probabilities in place of labels"
    exact = _Swap(ESTIMATOR, "the exact gradient of J", config, ExactObjective, job.reward_fn)
    if not config.on_policy:
        plain = dict.fromkeys(all_options()) | {"f_divergence_type": "reverse_kl"}
        plain |= {"loss": "sigmoid", "ld_alpha": None, "use_weighting": False}
        many = replace(config, **plain)
        return [
            _Swap(NOISE, known, config, KnownLabels),
            _Swap(COVERAGE, "fresh pairs in every step", config, FreshPairs),
            _Swap(ESTIMATOR, "DPO's loss, 16 times as many pairs", many, LargeFreshBatches),
        ]
    if job.training_reward is not job.reward_fn:
        truth = "the true reward in place of the one trained on"
        swaps = [_Swap(COVERAGE, truth, config, reward=job.reward_fn)]
        if isinstance(job.training_reward, RewardModel):
            reward = _reward_on_known_labels(job, how, progress)
            swaps.insert(0, _Swap(NOISE, known, config, reward=reward))
        return [*swaps, exact]
    if config.method == "online-dpo":
        return [_Swap(NOISE, known, config, SampledWithKnownLabels, job.reward_fn), exact]
    return [exact]


def _trained(
    swap: _Swap,
    job: Job,
    data: Preferences | Iterable[Mapping] | None,
    progress: Progress | None,
) -> Job:
    again = prepare(
        swap.config,
        data=data,
        reward_fn=job.reward_fn,
        training_reward=swap.reward,
        keep_reference=True,
    )
    for what in ("fingerprint", "data_fingerprint", "held_out_fingerprint"):
        if getattr(again, what) != getattr(job, what):
            raise ValueError(
                "data, model: those that the run's settings name are not those that it had. Give "
                "its pairs (data=...); a model that was given in memory cannot be trained again."
            )
    again.step_gradient = swap.gradient
    total = swap.config.total_steps(len(again.train))
    for record in train(again):
        if progress:
            progress(f"{swap.name}: {swap.words}", record.step, total)
    return again


def _reward_on_known_labels(
    job: Job, how: RewardTraining | None, progress: Progress | None
) -> RewardModel:
    """A reward model of the same pairs whose labels count with their true probability."""
    plain = ready_policy(replace(job.config, lora_rank=None))
    how = how or replace(RewardTraining.for_model(plain), seed=job.config.seed)
    how = replace(how, batch_pairs=min(how.batch_pairs, len(job.train)))
    model = new_reward_model(plain, job.config.seed)
    chances = torch.tensor([first_wins(job, pair) for pair in job.train.tokens])
    steps = how.steps(len(chances))
    for step, _ in enumerate(train_reward_model(model, job.train.tokens, how, chances), 1):
        if progress:
            progress(f"{NOISE}: reward model", step, steps)
    return model


def _objective(world: ResponseSpace, job: Job, beta: float) -> float:
    logps = world.logps(job.policy)
    return rlhf_objective(logps, world.reference_logps, world.rewards, beta).mean().item()
