"""A model's weights: hash them, save them to a folder, load them back."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from dpo_lab.data.quoting import shortened
from dpo_lab.models.adapters import load_adapter
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.progress_bars import no_bars


def weights_fingerprint(model: nn.Module) -> str:
    """Hash of a model's weights and configuration.

    Two models with equal fingerprints compute the same function; a model that was changed in memory
    differs from the saved model of the same name. An adapter's scale, and whether it is enabled,
    are part of the hash.
    """
    digest = hashlib.blake2b(digest_size=16)
    config = model.config.to_dict()
    for volatile in ("_name_or_path", "transformers_version", "dtype", "use_cache"):
        config.pop(volatile, None)
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, module in model.named_modules():
        if hasattr(module, "merged_adapters"):  # a layer of PEFT's
            enabled = not module.disable_adapters and module.active_adapters
            scales = sorted(getattr(module, "scaling", {}).items())
            digest.update(repr((name, enabled, module.merged_adapters, scales)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


def save_model(language_model: LanguageModel, folder: Path) -> None:
    """Save model (or adapter) and tokenizer for `from_pretrained`, in safetensors."""
    with no_bars():
        language_model.model.save_pretrained(folder)
    language_model.tokenizer.save_pretrained(folder)


def load_weights(language_model: LanguageModel, folder: Path) -> None:
    """Load weights that `save_model` wrote into a model of the same shape.

    Raises:
        ValueError: If the weights do not fit the model.
    """
    try:
        with no_bars():
            load = load_adapter if language_model.lora else _load_full_weights
            unmatched = load(language_model.model, Path(folder))
        if unmatched:
            raise ValueError(f"{len(unmatched)} of them are on one side only: {min(unmatched)}...")
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"{folder}: its weights do not fit {language_model.name!r} "
            f"({shortened(error)}). The checkpoint belongs to another model."
        ) from error


def _load_full_weights(model: nn.Module, folder: Path) -> set[str]:
    """Load only weights from the folder, for the configuration of the model in memory."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no model.safetensors in {folder}")
    saved, report = type(model).from_pretrained(
        None,
        config=copy.deepcopy(model.config),
        state_dict={name: weight for file in files for name, weight in load_file(file).items()},
        dtype=torch.float32,
        output_loading_info=True,
    )
    unmatched = report["missing_keys"] | report["unexpected_keys"]
    if not unmatched:
        model.load_state_dict(saved.state_dict())
    return unmatched
