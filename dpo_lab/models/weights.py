"""A model's weights: hash them, save them to a folder, load them back."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dpo_lab.data.quoting import shortened
from dpo_lab.models.adapters import load_adapter
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.processes import ALONE
from dpo_lab.models.progress_bars import no_bars
from dpo_lab.models.sharding import plain_class


def weights_fingerprint(model: nn.Module) -> str:
    """Hash of a model's weights and configuration.

    Two models with equal fingerprints compute the same function; a model that was changed in memory
    differs from the saved model of the same name. An adapter's scale, and whether it is enabled,
    are part of the hash.
    """
    digest = _config_digest(model)
    for name, module in model.named_modules():
        if hasattr(module, "merged_adapters"):  # a layer of PEFT's
            enabled = not module.disable_adapters and module.active_adapters
            scales = sorted(getattr(module, "scaling", {}).items())
            digest.update(repr((name, enabled, module.merged_adapters, scales)).encode())
    _add_tensors(digest, model.state_dict())
    return digest.hexdigest()


def base_fingerprint(language_model: LanguageModel) -> str:
    """`weights_fingerprint` of a model as it was before an adapter was put on it.

    Args:
        language_model: A model, with an adapter beside its weights or without any.
    """
    if not language_model.lora:
        return weights_fingerprint(language_model.model)
    weights = {
        name.replace(".base_layer.", ".").replace(".original_module.", "."): tensor
        for name, tensor in language_model.base.state_dict().items()
        if not ("lora_" in name or ".modules_to_save." in name)
    }
    digest = _config_digest(language_model.base)
    _add_tensors(digest, weights)
    return digest.hexdigest()


def _config_digest(model: nn.Module) -> hashlib.blake2b:
    digest = hashlib.blake2b(digest_size=16)
    config = model.config.to_dict()
    for volatile in ("_name_or_path", "transformers_version", "dtype", "use_cache"):
        config.pop(volatile, None)
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    return digest


def _add_tensors(digest: hashlib.blake2b, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(memoryview(flat.view(torch.uint8).numpy()))


def save_model(language_model: LanguageModel, folder: Path) -> None:
    """Save model (or adapter) and tokenizer for `from_pretrained`, in safetensors.

    If the weights are divided, all processes call this, and the first one writes them whole.
    """
    shards = language_model.shards
    whole = None
    if shards:
        whole = shards.whole(language_model.model, _saved_tensors(language_model))

    def write() -> None:
        with no_bars():
            language_model.model.save_pretrained(folder, state_dict=whole)
        language_model.tokenizer.save_pretrained(folder)

    (shards.processes if shards else ALONE).from_first(write)


def _saved_tensors(language_model: LanguageModel) -> dict[str, Tensor]:
    """The part of a model's state that is saved: of a model with LoRA the adapter, else all."""
    state = language_model.model.state_dict()
    if not language_model.lora:
        return state
    from peft import get_peft_model_state_dict

    saved = get_peft_model_state_dict(language_model.model, state_dict=state).values()
    picked = {id(tensor) for tensor in saved}
    return {name: tensor for name, tensor in state.items() if id(tensor) in picked}


def load_weights(language_model: LanguageModel, folder: Path) -> None:
    """Load weights that `save_model` wrote into a model of the same shape.

    Raises:
        ValueError: If the weights do not fit the model.
    """
    try:
        with no_bars():
            load = load_adapter if language_model.lora else _load_full_weights
            shards = language_model.shards
            unmatched = load(language_model.model, Path(folder), shards and shards.divided)
        if unmatched:
            raise ValueError(f"{len(unmatched)} of them are on one side only: {min(unmatched)}...")
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"{folder}: its weights do not fit {language_model.name!r} "
            f"({shortened(error)}). The checkpoint belongs to another model."
        ) from error


def _load_full_weights(
    model: nn.Module, folder: Path, divided: Callable[[Tensor], Tensor] | None = None
) -> set[str]:
    """Load only weights from the folder, for the configuration of the model in memory.

    Args:
        model: The model; its class is the first that is not made for dividing it.
        folder: The folder.
        divided: Gives a process's part of a weight, if the model is divided.
    """
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no model.safetensors in {folder}")
    saved, report = plain_class(model).from_pretrained(
        None,
        config=copy.deepcopy(model.config),
        state_dict={name: weight for file in files for name, weight in load_file(file).items()},
        dtype=torch.float32,
        output_loading_info=True,
    )
    unmatched = report["missing_keys"] | report["unexpected_keys"]
    if not unmatched:
        weights = {name for name, _ in saved.named_parameters(remove_duplicate=False)}
        model.load_state_dict(
            {
                name: divided(tensor) if divided and name in weights else tensor
                for name, tensor in saved.state_dict().items()
            }
        )
    return unmatched
