"""A run begun in its folder, or found there as it was left, if it is still the same run."""

from __future__ import annotations

import platform
from collections.abc import Collection
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from dpo_lab.kernels.threads import threads_worth
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.live_settings import LIVE
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import Job

PACKAGES = ("dpo-lab", "torch", "transformers", "tokenizers", "datasets", "accelerate", "peft")


def check_settings(run: Run, config: TrainConfig, free: Collection[str] = ()) -> None:
    """Refuse a configuration that is not the one that a run was begun with.

    Args:
        run: The run; one that is not begun yet passes.
        config: What is asked for now.
        free: Settings that may be others.

    Raises:
        ValueError: With the first setting that is another.
    """
    if not run.exists:
        return
    kept = run.config.as_dict()
    for name, value in config.resolved().as_dict().items():
        # What is resolved when a run is prepared may be open still; and what is no setting of the
        # run but a person's word is in no file.
        left_open = (name, value) in (
            ("micro_batch_tokens", None), ("precision", "auto"), ("template_date", None)
        )  # fmt: skip
        if not left_open and name not in (*free, "trust_remote_code") and kept[name] != value:
            raise ValueError(
                f"{run.path}: was begun with {name}={kept[name]}, not {value}. "
                "Give another folder, or the settings that it began with."
            )


def open_or_create(run: Run, job: Job, *, resume: bool = True) -> Run:
    """The run of a job: begun, or found as it was left.

    Args:
        run: Its folder.
        job: What is to be run.
        resume: Whether a run that is there goes on.

    Raises:
        FileExistsError: If there is a run that is not to go on, or something else.
        ValueError: If the settings but `LIVE`, the weights, the data or what makes ids of it are
            not those it began with.
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
    # The date is compared below, with the rest of what makes ids of text.
    check_settings(run, job.config, (*LIVE, "template_date"))
    begun = run.environment
    for name, what, now in (
        ("weights_fingerprint", "weights", job.fingerprint),
        ("data_fingerprint", "data", job.data_fingerprint),
        ("held_out_fingerprint", "held-out data", job.held_out_fingerprint),
    ):
        # Earlier versions did not note the held-out data.
        if begun.get(name, now if what == "held-out data" else None) != now:
            raise ValueError(
                f"{run.path}: {what} changed since this run began, so "
                "it cannot go on as the same run. Restore them, or begin another run."
            )
    if changed := job.text.changed_since(begun.get("text", {})):
        raise ValueError(
            f"{run.path}: {changed} changed since this run began, so the same text has other ids, "
            "and it cannot go on as the same run. Restore it, or begin another run."
        )


DATA_FACTS = ("pairs", "prompt_kind", "data", "load_reports", "tokens", "token_problems")
"""What `environment.json` says of a run's data."""


def data_facts(job: Job) -> dict[str, Any]:
    """How many pairs a job trains on and holds out, and what became of every row, by number."""
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
    """Versions, machine and origins of a job, as `environment.json` holds them."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
        "device": str(job.policy.device),
        "weights_origin": job.policy.origin,
        "weights_fingerprint": job.fingerprint,
        "data_fingerprint": job.data_fingerprint,
        "held_out_fingerprint": job.held_out_fingerprint,
        "text": job.text.as_dict(),
        **data_facts(job),
        "reference": asdict(job.cache_use),
        "total_steps": job.config.total_steps(len(job.train)),
        "threads": threads_worth(job.policy.model),
    }
