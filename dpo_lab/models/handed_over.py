"""Turns any form of a model (name, folder, loaded model, with tokenizer) into a `LanguageModel`."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dpo_lab.models.loading import LanguageModel, load_model
from dpo_lab.models.model_settings import Bits, Device

logger = logging.getLogger(__name__)

AnyModel = str | Path | LanguageModel | nn.Module | tuple[nn.Module, PreTrainedTokenizerBase]
"""A name or folder, or a loaded transformers or peft model, alone or with its tokenizer."""


def as_language_model(
    model: AnyModel,
    *,
    device: Device = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantize: Bits | None = None,
) -> LanguageModel:
    """A model with its tokenizer; a loaded model is used in place, on its own device.

    Args:
        model: A name, a folder or a hub id; a loaded transformers or peft model, whose tokenizer is
            looked up by the name from which the model was loaded; or `(model, tokenizer)`.
        device: Device for a model given by name.
        revision: Branch, tag or commit of a model given by hub id.
        trust_remote_code: Whether a model given by name may run its own code.
        quantize: Bits of the linear layers of a model given by name.

    Raises:
        FileNotFoundError: If a name leads to no model.
        TypeError: If it is none of these.
        ValueError: If no tokenizer is found for a loaded model, it is spread over devices, or it is
            to be quantised.
    """
    if isinstance(model, str | Path):
        return load_model(
            model,
            device=device,
            revision=revision,
            trust_remote_code=trust_remote_code,
            quantize=quantize,
        )
    if quantize:
        raise ValueError(
            f"quantize={quantize!r}: the model is loaded already, and its weights are quantised "
            "while they are loaded. Give its name or folder."
        )
    if isinstance(model, LanguageModel):
        return model
    tokenizer = None
    if isinstance(model, tuple) and len(model) == 2:
        model, tokenizer = model
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise TypeError(
            f"model: a {type(model).__name__} is not a causal language model. Give a name, a "
            "transformers or peft model, or (model, tokenizer)."
        )
    name = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    _check_one_device(model, name)
    if tokenizer is None:
        tokenizer = _tokenizer_of(name)
    dtypes = {weight.dtype for weight in model.parameters() if weight.requires_grad}
    if low := dtypes & {torch.bfloat16, torch.float16}:
        logger.warning(
            "%s: its weights are %s, in which small updates are lost; load it in float32 to train.",
            name,
            str(low.pop()).removeprefix("torch."),
        )
    return LanguageModel(model, tokenizer, name, "handed over")


def _check_one_device(model: nn.Module, name: str) -> None:
    devices = {str(weight.device) for weight in model.parameters()}
    if len(devices) > 1:
        raise ValueError(
            f"{name}: its weights lie on {', '.join(sorted(devices))}, and one device is used. "
            "Load it without device_map, or with all of it on one."
        )


def _tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name}: no tokenizer is found under the name from which the model was loaded. "
            "Give (model, tokenizer)."
        ) from error
