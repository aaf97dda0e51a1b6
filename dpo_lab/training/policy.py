"""Loads the policy of a run, or takes a loaded model, and prepares it for training."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

from dpo_lab.data.assets import cache_path
from dpo_lab.models.dropout import evaluation_mode
from dpo_lab.models.handed_over import AnyModel, as_language_model
from dpo_lab.models.loading import LanguageModel, add_lora
from dpo_lab.models.model_settings import Device
from dpo_lab.models.weights import save_model, weights_fingerprint
from dpo_lab.training.config import TrainConfig

logger = logging.getLogger(__name__)


def ready_policy(
    config: TrainConfig, model: AnyModel | None = None, device: Device | None = None
) -> LanguageModel:
    """The model to train, in evaluation mode, without a new adapter yet.

    Args:
        config: The configuration.
        model: A model already loaded, instead of `config.model`; it is changed in place.
        device: Where to load it, instead of `config.device`.

    Raises:
        ValueError: If no weight would be trained, or the model cannot be quantised.
    """
    policy = as_language_model(
        config.model if model is None else model,
        device=device or config.device,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        quantize=config.quantize,
    )
    evaluation_mode(policy.model)
    if config.lora_rank is None:
        _check_trained(policy)
    elif policy.merged and config.quantize:
        raise ValueError(
            f"model {policy.name!r}: is an adapter, which cannot be merged into quantised weights "
            "without loss. Merge it first ('dpo-lab export --merge' of its run), and train that."
        )
    elif policy.merged:
        policy = _with_merged_base(policy)
    return policy


def adapted_policy(config: TrainConfig, policy: LanguageModel) -> LanguageModel:
    """The policy as it is trained: with a new adapter and gradient checkpointing, if configured."""
    if config.lora_rank is not None:
        policy = add_lora(
            policy,
            config.lora_rank,
            alpha=config.lora_alpha,
            targets=config.lora_targets,
            seed=config.seed,
        )
    if config.gradient_checkpointing:
        policy.base.gradient_checkpointing_enable({"use_reentrant": False})
    evaluation_mode(policy.model, config.gradient_checkpointing)
    return policy


def _check_trained(policy: LanguageModel) -> None:
    """Raise if no weight requires a gradient; warn if only some do."""
    trained = [weight.requires_grad for weight in policy.model.parameters()]
    if not any(trained):
        raise ValueError(
            f"model {policy.name!r}: none of its {len(trained)} weights has requires_grad, so "
            "nothing would be trained. Set it on those to train, or give lora_rank."
        )
    if policy.lora or all(trained):
        return
    logger.warning(
        "%s: %d of its %d weights have no requires_grad and will not be trained.",
        policy.name,
        trained.count(False),
        len(trained),
    )


def _with_merged_base(language_model: LanguageModel) -> LanguageModel:
    """The model, saved in a folder to serve as the base of a new adapter.

    An adapter refers to its base by name, but weights with a merged adapter are in no folder yet.
    They are written to the lab's cache, once for the same weights.
    """
    folder = cache_path("merged") / weights_fingerprint(language_model.model)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            part = Path(scratch) / "model"
            save_model(language_model, part)
            try:
                part.rename(folder)
            except OSError:  # another process has already written the same weights
                if not folder.exists():
                    raise
    logger.warning(
        "%s: its adapter is merged into its base first, in %s; the new adapter needs that folder.",
        *(language_model.name, folder),
    )
    model = language_model.model
    model.config._name_or_path = model.name_or_path = str(folder)
    model.config._commit_hash = None
    return replace(language_model, merged=False)
