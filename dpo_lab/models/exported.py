"""A trained model written as a folder that plain `transformers` or `peft` loads, and loaded so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import get_args

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from dpo_lab.models.adapters import quiet_peft
from dpo_lab.models.builtin import HUB_ID, builtin_model
from dpo_lab.models.loading import LanguageModel, load_error
from dpo_lab.models.model_settings import Bits, DType
from dpo_lab.models.progress_bars import no_bars
from dpo_lab.models.quantised import check_widths, loading_options

ADAPTER, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
NOT_EXPORTED = {ADAPTER, SETTINGS, "trainer.pt", "checksums.json", "README.md"}
"""Files of a checkpoint that are written otherwise, or only a resumed run needs."""
SPARE_BYTES = 20_000_000
"""Room for tokenizer, card and what else lies beside the weights."""


def torch_dtype(name: DType) -> torch.dtype:
    """The dtype with a name.

    Raises:
        ValueError: If weights are not written in it.
    """
    if name not in get_args(DType):
        raise ValueError(
            f"dtype={name!r}: weights are not written in it. Use one of "
            f"{', '.join(get_args(DType))}."
        )
    return getattr(torch, name)


def check_space(folder: Path, weights: int, dtype: DType) -> None:
    """Raise if a model does not fit on the disk of a folder.

    Args:
        folder: A folder that is there.
        weights: Number of weights.
        dtype: What each is written in.

    Raises:
        OSError: If there is too little room.
    """
    needed, free = (
        weights * torch_dtype(dtype).itemsize + SPARE_BYTES,
        shutil.disk_usage(folder).free,
    )
    if free < needed:
        raise OSError(
            f"{folder}: the model takes {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free "
            "there. Make room, give another folder, or take a smaller dtype."
        )


def write_whole(language_model: LanguageModel, folder: Path, dtype: DType) -> None:
    """Write a whole model and its tokenizer.

    Generation with the folder stops where answers ended in training: at `eos_token` and at the chat
    template's end of turn.

    Args:
        language_model: A model without an adapter beside its weights; they are rounded in place.
        folder: The folder.
        dtype: What the weights are written in.

    Raises:
        OSError: If there is too little room.
    """
    weights = sum(weight.numel() for weight in language_model.model.parameters())
    check_space(folder, weights, dtype)
    model = language_model.model.to(torch_dtype(dtype))
    defaults = getattr(model, "generation_config", None)
    ends = list(language_model.encoder.end_ids)
    if defaults is not None and len(ends) > 1:
        known = defaults.eos_token_id
        known = known if isinstance(known, list) else [known] * (known is not None)
        defaults.eos_token_id = [*known, *(end for end in ends if end not in known)]
    with no_bars():
        model.save_pretrained(folder)
    language_model.tokenizer.save_pretrained(folder)


def base_of(checkpoint: Path) -> str:
    """The name of the base that a checkpoint's adapter needs, as others find it."""
    settings = json.loads((checkpoint / SETTINGS).read_text(encoding="utf-8"))
    return public_base(settings["base_model_name_or_path"])


def write_adapter(checkpoint: Path, folder: Path, dtype: DType) -> None:
    """Write a checkpoint's adapter and its tokenizer.

    Args:
        checkpoint: The folder that holds the adapter.
        folder: The folder.
        dtype: What the adapter's weights are written in.

    Raises:
        OSError: If there is too little room.
    """
    weights = load_file(checkpoint / ADAPTER)
    check_space(folder, sum(weight.numel() for weight in weights.values()), dtype)
    for file in checkpoint.iterdir():
        if file.is_file() and file.name not in NOT_EXPORTED:
            shutil.copy(file, folder / file.name)
    rounded = {name: weight.to(torch_dtype(dtype)) for name, weight in weights.items()}
    save_file(rounded, folder / ADAPTER, metadata={"format": "pt"})
    settings = json.loads((checkpoint / SETTINGS).read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = base_of(checkpoint)
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    (folder / SETTINGS).write_text(text, encoding="utf-8")


def public_base(name: str) -> str:
    """The name by which others find a base: that of the hub, if these are the hub's weights."""
    if Path(name).name == "smollm2":
        path, origin = builtin_model("smollm2")
        if Path(path) == Path(name) and origin.startswith("hub"):
            return HUB_ID
    return name


def load_as_users_do(
    folder: Path,
    device: torch.device,
    *,
    trust_remote_code: bool = False,
    quantize: Bits | None = None,
) -> nn.Module:
    """What plain `transformers` makes of an exported folder, in evaluation mode.

    Args:
        folder: A whole model, or an adapter, whose base is then loaded too.
        device: Where to put it.
        trust_remote_code: Whether code that comes with the model may run.
        quantize: Bits of the linear layers; by default the weights keep the dtype that they were
            written in, but are in float32, rounded, on a CPU without bfloat16.

    Raises:
        ValueError: If it does not load, or cannot be quantised here.
    """
    bits = loading_options(quantize, device) if quantize else {}
    options = {"dtype": "auto", "use_safetensors": True, "trust_remote_code": trust_remote_code}
    try:
        with no_bars(), quiet_peft():
            model = AutoModelForCausalLM.from_pretrained(folder, **options, **bits)
    except Exception as error:  # what is wrong in a model's files fails in any way
        raise load_error(str(folder), error) from error
    check_widths(model)
    if quantize:
        return model.eval()
    model = model.to(device).eval()
    return model if has_bfloat16(device) or model.dtype != torch.bfloat16 else model.float()


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; where torch cannot tell, a CPU has none.

    A CPU without any is hundreds of times slower than in float32.
    """
    if device.type != "cpu":
        return True
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return any(has for name, has in known.items() if "bf16" in name)
