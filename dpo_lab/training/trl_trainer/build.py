"""From the arguments of TRL's trainer to a prepared job."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase, TrainerState, TrainingArguments

from dpo_lab.data.preferences import Preferences
from dpo_lab.models.loading import LanguageModel
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.job import Job
from dpo_lab.training.setup import micro_batch_tokens, prepare
from dpo_lab.training.step_plan import StepPlan
from dpo_lab.training.trl_trainer.inputs import load_policy, pairs_of, prompt_format
from dpo_lab.training.trl_trainer.plan import TrlPlan
from dpo_lab.training.trl_trainer.progress import Bars
from dpo_lab.training.trl_trainer.settings import quarters, settings_of

ALL = 10**9
"""Held-out pairs to evaluate on: every one."""
TRAINING_PROMPT = "training prompt"


@dataclass(frozen=True)
class Given:
    """What a trainer is given, as it is given.

    Attributes:
        model: A name or a loaded model.
        ref_model: The reference, if one is given.
        train: `train_dataset`.
        held_out: `eval_dataset`.
        tokenizer: `processing_class`.
        peft_config: Of a new adapter.
        measured: The lab's settings of what is measured, where given.
    """

    model: str | nn.Module
    ref_model: nn.Module | None
    train: Any
    held_out: Any
    tokenizer: PreTrainedTokenizerBase | None
    peft_config: Any
    measured: dict[str, int]


def job_of_config(given: Given, config: TrainConfig) -> Job:
    """The job of a run with the lab's own settings."""
    train, held_out = _pairs(given)
    policy = _policy(given, None)
    config = replace(config, model=policy.name, **given.measured)
    return prepare(config, model=policy, data=train, held_out=held_out, progress=Bars(True))


def job_of_arguments(given: Given, args: TrainingArguments) -> tuple[Job, frozenset[int]]:
    """The job of a run with TRL's arguments.

    Returns:
        The job, and the steps after which KL is measured although no evaluation is asked for.

    Raises:
        TypeError: If an argument is of a kind that the lab cannot take.
        ValueError: If one asks for what the lab does not do.
    """
    settings_of(args)  # refuses before anything is loaded
    if args.eval_strategy != "no" and given.held_out is None:
        raise ValueError(
            f"eval_strategy={str(args.eval_strategy.value)!r}: there is no eval_dataset to "
            "evaluate on. Give one, or leave it out."
        )
    train, held_out = _pairs(given)
    policy = _policy(given, args)
    settings = settings_of(args, policy.base.config)
    settings |= {
        "model": policy.name,
        "data": "train_dataset",
        "prompt_format": prompt_format(train),
        "eval_pairs": ALL if args.eval_strategy != "no" else 0,
        **given.measured,
    }
    config = TrainConfig(**settings)
    most = micro_batch_tokens(config, policy.device)
    theirs = 2 * args.per_device_train_batch_size * config.max_length
    config = replace(config, micro_batch_tokens=min(most, theirs)).resolved()
    measures = bool(config.kl_samples or config.sample_prompts)
    job = prepare(
        config,
        model=policy,
        data=train,
        held_out=held_out,
        keep_reference=measures or held_out is not None,
        progress=Bars(not args.disable_tqdm),
        plan=_TrlPlans(args),
    )
    _set_prompts(job, policy, train, held_out)
    return job, _set_rhythm(job, args, measures)


@dataclass(frozen=True)
class _TrlPlans:
    """Makes TRL's plan for a configuration and a number of pairs."""

    args: TrainingArguments

    def __call__(self, config: TrainConfig, pairs: int) -> StepPlan:
        return TrlPlan(config, pairs, self.args)


def _policy(given: Given, args: TrainingArguments | None) -> LanguageModel:
    adapter, reference = given.peft_config, given.ref_model
    return load_policy(given.model, args, given.tokenizer, adapter, reference)


def _pairs(given: Given) -> tuple[Preferences, Preferences | None]:
    train = pairs_of(given.train, "train_dataset")
    held_out = None if given.held_out is None else pairs_of(given.held_out, "eval_dataset")
    return train, held_out


def _set_prompts(
    job: Job, policy: LanguageModel, train: Preferences, held_out: Preferences | None
) -> None:
    """Without held-out pairs, KL and answers are of the prompts that are trained on."""
    if held_out is None:
        job.prompts = policy.encoder.as_prompts(train.prompts, job.config.prompt_format)
        job.prompt_kind = TRAINING_PROMPT


def _set_rhythm(job: Job, args: TrainingArguments, measures: bool) -> frozenset[int]:
    """Note in the settings how often the run evaluates and saves; when KL is due besides."""
    plan = job.plan(job.config, len(job.train))
    state, per_epoch = TrainerState(), getattr(plan, "steps_per_epoch", 1)
    state.compute_steps(args, plan.total_steps)
    due: frozenset[int] = frozenset()
    if args.eval_strategy == "no" and measures:
        due = quarters(plan.total_steps)
    evaluations = {"steps": state.eval_steps, "epoch": per_epoch, "no": min(due, default=0)}
    saves = {"steps": state.save_steps, "epoch": per_epoch}
    job.config = replace(
        job.config,
        eval_every=int(evaluations[args.eval_strategy.value]),
        checkpoint_every=int(saves.get(args.save_strategy.value, 0)),
        eval_pairs=0 if job.held_out is None else len(job.held_out),
    )
    return due
