"""Weights in 4 or 8 bits by bitsandbytes: QLoRA's base, and copies that are only compared."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import get_args

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from dpo_lab.models.model_settings import Bits

BLOCK = 64
"""Weights that share a scale in 4 bits."""


def bits_config(bits: Bits, device: torch.device) -> BitsAndBytesConfig:
    """Settings with which `from_pretrained` quantises a model's linear layers, but for the head.

    4 bits are NF4 with the scales quantised too, as in QLoRA; products are computed in bfloat16 on
    CUDA devices that have it, else in float32. 8 bits are LLM.int8, whose result for a row depends
    on the other rows of a batch, so that no policy is trained with it.

    Args:
        bits: `4bit` or `8bit`.
        device: Where the model will lie.

    Raises:
        ValueError: If there is no such kind, no bitsandbytes, or none for this device.

    Source:
        Dettmers et al. 2023 (arXiv 2305.14314), sections 3 and 4; 2022 (arXiv 2208.07339).
    """
    if bits not in get_args(Bits):
        raise ValueError(f"{bits!r}: no kind of quantised weights. Use 4bit or 8bit.")
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            f"{bits}: needs the package bitsandbytes, which is not installed. Run: pip install "
            "'dpo-lab[quantize]'"
        )
    if device.type not in ("cuda", "cpu"):
        raise ValueError(
            f"{bits}: bitsandbytes has no layers for {device.type}. Use device cuda or cpu."
        )
    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if fast else torch.float32,
    )


def loading_options(bits: Bits, device: torch.device) -> dict[str, object]:
    """Arguments of `from_pretrained` for a quantised model, which is put on its device at once.

    Raises:
        ValueError: As `bits_config`.
    """
    return {"quantization_config": bits_config(bits, device), "device_map": {"": str(device)}}


def written_out(model: nn.Module) -> nn.Module:
    """A quantised model with the same weights in float32, in plain layers."""
    return model.dequantize().float()


def use_differentiable(model: nn.Module) -> None:
    """Make 4-bit layers on the CPU compute in a way that has a gradient.

    In evaluation mode, which is how the lab trains, they would repack their weights for a kernel of
    bfloat16 products without one, and gradients would silently end there.

    Args:
        model: A model that was loaded just now; without such layers nothing changes.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def compute_in_float32(model: nn.Module) -> None:
    """Make 4-bit layers compute in float32, as the rest of a policy that is compared does.

    Args:
        model: A model; without such layers nothing changes.
    """
    for module in model.modules():
        if hasattr(module, "compute_type_is_set"):
            module.compute_dtype, module.compute_type_is_set = torch.float32, True


def check_widths(model: nn.Module) -> None:
    """Raise for a model whose layers that kernel cannot compute with.

    Raises:
        ValueError: If a layer's input is not a whole number of blocks of 64 wide.
    """
    for name, module in model.named_modules():
        quantised = hasattr(getattr(module, "weight", None), "quant_state")
        packs = getattr(module, "support_avx512bf16_for_cpu", False)
        packs = packs and quantised and module.weight.device.type == "cpu"
        if packs and module.in_features % BLOCK:
            raise ValueError(
                f"4bit: bitsandbytes on this CPU needs layers whose width is a multiple of {BLOCK},"
                f" and {name} is {module.in_features} wide. Take 8bit, or a GPU."
            )


@contextmanager
def quiet_bitsandbytes() -> Iterator[None]:
    """Hide what bitsandbytes says of its own choices: a missing kernel, float16 inside 8 bits."""
    for name in ("bitsandbytes", "transformers.integrations.bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*inputs will be cast from")
        yield
