"""The models of a run: its policy, and the very reference that it started from."""

from __future__ import annotations

from pathlib import Path

from dpo_lab.models.loading import LanguageModel, load_model
from dpo_lab.models.model_settings import Device
from dpo_lab.models.quantised import compute_in_float32
from dpo_lab.models.weights import base_fingerprint, weights_fingerprint
from dpo_lab.training.runs import Run


def checkpoint_of(run: Run) -> Path:
    """The folder of a run's newest checkpoint.

    Raises:
        FileNotFoundError: If it has none yet.
    """
    checkpoint = run.checkpoint
    if checkpoint is None:
        raise FileNotFoundError(
            f"{run.path}: this run has no checkpoint yet. Wait for its first one, or resume it."
        )
    return checkpoint


def policy_of(
    run: Run, *, device: Device = "auto", trust_remote_code: bool = False, merge: bool = True
) -> LanguageModel:
    """The policy of a run's newest checkpoint, which writes prompts as the run did.

    Args:
        run: The run.
        device: Where it goes.
        trust_remote_code: Whether code that comes with the model may run.
        merge: Whether to merge an adapter; otherwise it stays beside its base, as in training.

    Raises:
        FileNotFoundError: If there is no checkpoint, or no base under its adapter.
        ValueError: If it does not load, or its base is not the one that the run began with.

    Note:
        Under QLoRA the base is quantised again, as in training, and computes in float32. Merged,
        the result is what quantising made of the base, written out, and the adapter. It is the
        policy; the adapter on the base's own weights is not.
    """
    policy = load_model(
        checkpoint_of(run),
        device=device,
        trust_remote_code=trust_remote_code,
        merge=merge,
        quantize=run.config.quantize,
    )
    known = run.environment.get("weights_fingerprint")
    # Each kind of device quantises in its own way, to the last bit.
    there = str(run.environment.get("device", "")).startswith(policy.device.type)
    if run.config.quantize and not there:
        known = None
    if policy.lora and known and known != base_fingerprint(policy):
        raise ValueError(
            f"{run.path}: the base under its adapter, {run.config.model!r}, is not the model that "
            "the run began with, so adapter and base do not belong together. Restore the base."
        )
    compute_in_float32(policy.model)
    return _with_template(run, policy)


def reference_of(
    run: Run, *, device: Device = "auto", trust_remote_code: bool = False
) -> LanguageModel:
    """The reference of a run, which writes prompts as the run did.

    Args:
        run: The run.
        device: Where it goes.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        FileNotFoundError: If the model is not where it was.
        ValueError: If its weights are no longer those that the run started from.
    """
    config = run.config
    model = load_model(
        config.model,
        device=device,
        revision=config.revision,
        trust_remote_code=trust_remote_code,
    )
    known = run.environment.get("weights_fingerprint")
    if known and known != weights_fingerprint(model.base):
        raise ValueError(
            f"{run.path}: the weights of {config.model!r} are not those of the run's reference. "
            "Give them with --model, or a model to compare with."
        )
    return _with_template(run, model)


def _with_template(run: Run, model: LanguageModel) -> LanguageModel:
    config = run.config
    model.use_template(config.chat_template, config.template_date, config.thinking)
    return model
