"""Start a run in its folder, or resume it there if settings, data and weights are unchanged."""

from __future__ import annotations

import platform
from collections.abc import Collection
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from dpo_lab.kernels.threads import threads_worth
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.job import Job
from dpo_lab.training.live_settings import LIVE
from dpo_lab.training.runs import Run
from dpo_lab.training.step_plan import plan_of

PACKAGES = ("dpo-lab", "torch", "transformers", "tokenizers", "datasets", "accelerate", "peft")


def check_settings(run: Run, config: TrainConfig, free: Collection[str] = ()) -> None:
    """Raise if a configuration differs from the one with which a run was started.

    Args:
        run: The run; one that has not started yet passes.
        config: The configuration now.
        free: Names of settings that may differ.

    Raises:
        ValueError: Naming the first setting that differs.
    """
    if not run.exists:
        return
    kept = run.config.as_dict()
    for name, value in config.resolved().as_dict().items():
        # Settings that `prepare` resolves may be unset; trust_remote_code is not read from files.
        unset = (name, value) in (
            ("micro_batch_tokens", None), ("precision", "auto"), ("template_date", None)
        )  # fmt: skip
        if not unset and name not in (*free, "trust_remote_code") and kept[name] != value:
            raise ValueError(
                f"{run.path}: was begun with {name}={kept[name]}, not {value}. "
                "Give another folder, or the settings that it began with."
            )


def open_or_create(run: Run, job: Job, *, resume: bool = True) -> Run:
    """The run of a job: a new one, or the existing one to resume.

    Args:
        run: Its folder.
        job: The prepared job.
        resume: Whether to resume a run that is already there.

    Raises:
        FileExistsError: If there is a run but `resume` is false, or there are other files.
        ValueError: If settings other than `LIVE`, the weights, the data, the tokenizer or the chat
            template differ from those with which the run started.
    """
    if resume and run.exists:
        _check_same(run, job)
        return run
    return Run.create(run.path, job.config, describe_environment(job))


def _check_same(run: Run, job: Job) -> None:
    if run.settings.get("trust_remote_code") and not job.config.trust_remote_code:
        raise ValueError(
            f"{run.path}: this run was begun with code that comes with its model, and a run's "
            "folder cannot say that it may run. If you trust that code, say so again: "
            "--trust-remote-code (trust_remote_code=True)."
        )
    # The template's date is compared below, with tokenizer and template.
    check_settings(run, job.config, (*LIVE, "template_date"))
    begun = run.environment
    for name, what, now in (
        ("weights_fingerprint", "weights", job.fingerprint),
        ("data_fingerprint", "data", job.data_fingerprint),
        ("held_out_fingerprint", "held-out data", job.held_out_fingerprint),
        ("reward_fingerprint", "the reward model's weights", job.reward_fingerprint),
    ):
        # Earlier versions noted neither the held-out data nor a reward model.
        old = what in ("held-out data", "the reward model's weights")
        if begun.get(name, now if old else None) != now:
            raise ValueError(
                f"{run.path}: {what} changed since this run began, so it cannot be resumed. "
                "Restore them, or start another run."
            )
    if changed := job.text.changed_since(begun.get("text", {})):
        raise ValueError(
            f"{run.path}: {changed} changed since this run began, so the same text gives other "
            "token ids and the run cannot be resumed. Restore it, or start another run."
        )


DATA_FACTS = ("pairs", "prompt_kind", "data", "load_reports", "tokens", "token_problems")
"""The keys of `environment.json` that describe a run's data."""


def data_facts(job: Job) -> dict[str, Any]:
    """Numbers of training and held-out pairs of a job, and which rows were used or skipped."""
    held_out = job.held_out
    sides = [job.train.tokens] + ([held_out.tokens] if held_out is not None else [])
    problems = sorted((p for side in sides for p in side.problems), key=lambda p: p.row)
    return {
        "pairs": {
            "train": len(job.train),
            "held_out": 0 if held_out is None else len(held_out),
            "prompts": len(job.prompts),
        },
        "prompt_kind": job.prompt_kind,
        "data": [str(report) for report in job.load_reports],
        "load_reports": [report.as_dict() for report in job.load_reports],
        "tokens": str(job.train.tokens),
        "token_problems": [asdict(problem) for problem in problems],
    }


def describe_environment(job: Job) -> dict[str, Any]:
    """Versions, machine, fingerprints and data facts of a job, as in `environment.json`."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
        "device": str(job.policy.device),
        "weights_origin": job.policy.origin,
        "weights_fingerprint": job.fingerprint,
        "data_fingerprint": job.data_fingerprint,
        "held_out_fingerprint": job.held_out_fingerprint,
        "reward_fingerprint": job.reward_fingerprint,
        "text": job.text.as_dict(),
        **data_facts(job),
        "reference": asdict(job.cache_use),
        "total_steps": plan_of(job.plan, job.config, job.train.tokens).total_steps,
        "threads": threads_worth(job.policy.model),
    }
