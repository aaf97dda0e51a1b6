"""A model in any of the forms in which people have one, as a `LanguageModel`."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dpo_lab.models.choices import Device
from dpo_lab.models.loading import LanguageModel, load_model

logger = logging.getLogger(__name__)

AnyModel = str | Path | LanguageModel | nn.Module | tuple[nn.Module, PreTrainedTokenizerBase]
"""A name or folder, a loaded model (of transformers or peft) alone or with its tokenizer."""


def as_language_model(
    model: AnyModel,
    *,
    device: Device = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """The same model with its tokenizer; one that is loaded already is used as it is, where it is.

    Args:
        model: A name, a folder or a hub id; a loaded model of transformers or peft, whose tokenizer
            is found by the name that it was loaded by; or that model and its tokenizer.
        device: Where a model given by name is put.
        revision: Of a model given by the name of a hub.
        trust_remote_code: Whether a model given by name may bring its own code.

    Raises:
        FileNotFoundError: If a name leads to no model.
        TypeError: If it is none of these.
        ValueError: If a loaded model has no tokenizer to be found, or is spread over devices.
    """
    if isinstance(model, LanguageModel):
        return model
    if isinstance(model, str | Path):
        return load_model(
            model, device=device, revision=revision, trust_remote_code=trust_remote_code
        )
    tokenizer = None
    if isinstance(model, tuple) and len(model) == 2:
        model, tokenizer = model
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise TypeError(
            f"model: a {type(model).__name__} is no causal language model. Give a name, a model of "
            "transformers or peft, or (model, tokenizer)."
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
            f"{name}: no tokenizer is found by the name that the model was loaded by. "
            "Give (model, tokenizer)."
        ) from error
