"""Models by name: `micro`, `smollm2`, a hub id or a folder; plain or with LoRA."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from dpo_lab.data.quoting import shortened
from dpo_lab.data.template_settings import use_template
from dpo_lab.data.text_to_ids import Encoder
from dpo_lab.data.thinking import Thinking
from dpo_lab.models.adapters import load_adapted, new_adapter
from dpo_lab.models.builtin import BUILTIN_MODELS, builtin_model
from dpo_lab.models.checksums import NAME as CHECKSUMS, check_files
from dpo_lab.models.devices import resolve_device
from dpo_lab.models.dropout import disable_dropout
from dpo_lab.models.hub import hub_folder
from dpo_lab.models.model_settings import Answers, Bits, Device
from dpo_lab.models.progress_bars import no_bars
from dpo_lab.models.quantised import (
    loading_options,
    quiet_bitsandbytes,
    use_differentiable,
    written_out,
)
from dpo_lab.models.sharding import Shards

logger = logging.getLogger(__name__)
T = TypeVar("T")

_TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.json")


@dataclass
class LanguageModel:
    """A causal language model with its tokenizer.

    Attributes:
        model: The model; a `PeftModel` under LoRA.
        tokenizer: Its tokenizer.
        name: The name it was asked for by.
        origin: Where its weights came from.
        merged: Whether an adapter was merged into its weights when it was loaded, so that no folder
            holds them as they are.
        answers: How `sample` may ask it, found out by its first call.
        shards: How its weights are divided among processes; None if each has all of them.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    name: str
    origin: str
    merged: bool = False
    answers: Answers | None = None
    shards: Shards | None = None

    def __post_init__(self) -> None:
        self.encoder = Encoder(self.tokenizer, known_ids(self.base))

    def use_template(
        self,
        template: str | None = None,
        day: str | None = None,
        thinking: Thinking = "keep",
    ) -> None:
        """Write conversations by a template, and on a day, other than its own and today.

        Args:
            template: The template's text; by default it keeps its own.
            day: The date that a template writes which asks for it, as 2026-01-31.
            thinking: What becomes of the assistant's thinking.

        Raises:
            ValueError: If the template is no Jinja, the day no date, or the template cannot be
                told to ask for no thinking.
        """
        use_template(self.tokenizer, template, day, thinking)
        self.encoder = Encoder(self.tokenizer, known_ids(self.base))

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device

    def gathered(self, work: Callable[[], T]) -> T:
        """What a function returns that uses the model's parts; see `Shards.gathered`."""
        return self.shards.gathered(work) if self.shards else work()

    def in_step(self, batches: Sequence[list[int]]) -> list[list[int]]:
        """Batches of this process, and an empty one for each pass that only others have to make.

        Args:
            batches: Indices of the items in each batch.
        """
        return [*batches, *([] for _ in range(self.idle_passes(len(batches))))]

    def idle_passes(self, ours: int) -> int:
        """How many passes only others have to make that hold parts of the weights."""
        return self.shards.passes(ours) - ours if self.shards else 0

    def any_goes_on(self, ours: bool) -> bool:
        """Whether this process, or one that holds another part of the weights, goes on."""
        return bool(self.shards.passes(int(ours)) if self.shards else ours)

    @property
    def lora(self) -> bool:
        """Whether it carries a LoRA adapter."""
        return hasattr(self.model, "peft_config")

    @property
    def base(self) -> nn.Module:
        """The `transformers` model, under any adapter."""
        return self.model.get_base_model() if self.lora else self.model


def load_model(
    name: str | Path,
    *,
    device: Device = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    merge: bool = True,
    quantize: Bits | None = None,
) -> LanguageModel:
    """Load a model in float32 with dropout off, and its tokenizer.

    Args:
        name: `micro`, `smollm2`, a hub id, or a folder (a checkpoint of a run, plain or adapter,
            too; an adapter is merged into its base, which is resized to the adapter's vocabulary,
            and without a tokenizer of its own has its base's).
        device: `auto` takes CUDA, then MPS, then the CPU.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Whether code that comes with the model may run.
        merge: Whether to merge an adapter; otherwise it stays beside its base's weights.
        quantize: Bits of its linear layers, or its base's; by default float32. An adapter is
            merged into what quantising makes of its base, written out in float32.

    Returns:
        The model, on its device.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If it is no causal language model with all its weights in safetensors, or
            cannot be quantised here.
    """
    path, origin = builtin_model(str(name))
    try:
        check_files(Path(path), lambda file: not file.startswith(("trainer.pt", "optimizer/")))
    except ValueError as error:
        raise ValueError(
            f"model {str(name)!r}: {error}. Take a copy that is whole; or, if it was changed on "
            f"purpose, remove {CHECKSUMS} there."
        ) from None
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    target = resolve_device(device)
    bits = loading_options(quantize, target) if quantize else {}
    try:
        with no_bars(), quiet_bitsandbytes():
            folder = Path(path) if Path(path).is_dir() else hub_folder(path, revision)
            adapter = (folder / "adapter_config.json").exists()
            if adapter:
                base = partial(_load_base, trust_remote_code=trust_remote_code, merge=merge, **bits)
                model = load_adapted(str(folder), base, merge)
                tokenizer = _tokenizer_of_adapter(folder, **options)
            else:
                model = _load_plain(path, **options, **bits)
                tokenizer = _load_tokenizer(path, **options)
    except Exception as error:  # what is wrong in a model's files fails in any way
        raise load_error(str(name), error) from error
    disable_dropout(model)
    if not getattr(model, "is_quantized", False):  # else it lies there already
        model.to(target)
    return LanguageModel(model, tokenizer, str(name), origin, merged=adapter and merge)


def load_tokenizer(
    name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, without its weights; arguments and errors as of `load_model`."""
    path, _ = builtin_model(str(name))
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        if (Path(path) / "adapter_config.json").exists():
            return _tokenizer_of_adapter(Path(path), **options)
        return _load_tokenizer(path, **options)
    except Exception as error:  # what is wrong in a model's files fails in any way
        raise load_error(str(name), error) from error


def known_ids(model: nn.Module) -> int | None:
    """How many ids a `transformers` model has an embedding for, as far as it says."""
    try:
        weight = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:  # transformers cannot find it in some models
        return None
    return None if weight is None else weight.shape[0]


def _load_base(name: str, revision: str | None, merge: bool, **options) -> nn.Module:
    """The model under an adapter; a built-in one lies elsewhere on another machine."""
    moved = Path(name).is_absolute() and not Path(name).exists()
    if moved and Path(name).name in BUILTIN_MODELS:
        name, _ = builtin_model(Path(name).name)
    model = _load_plain(name, revision=revision, **options)
    return written_out(model) if merge and getattr(model, "is_quantized", False) else model


def _load_plain(path: str, **options) -> nn.Module:
    model, found = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=torch.float32,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that they are listed, and refused here
        **options,
    )
    use_differentiable(model)
    # transformers would go on with random ones.
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"{len(missing)} weights are missing, such as {missing[0]}")
    if others := sorted(found["mismatched_keys"]):
        name, saved, named = others[0]
        raise ValueError(
            f"{len(others)} weights have another shape than config.json says, such as {name}: "
            f"{tuple(saved)}, not {tuple(named)}"
        )
    return model


def _load_tokenizer(path: str, **options) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(path, **options)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        # What transformers makes of a folder that has none.
        raise ValueError("the tokenizer knows special tokens only")
    return tokenizer


def _tokenizer_of_adapter(folder: Path, **options) -> PreTrainedTokenizerBase:
    """Its own, or the one of its base where it was saved without any, as PEFT does."""
    if any((folder / name).exists() for name in _TOKENIZER_FILES):
        return _load_tokenizer(str(folder), **options)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    base = config["base_model_name_or_path"]
    logger.warning("%s: comes without a tokenizer; that of its base %s is used.", folder, base)
    return _load_tokenizer(base, **options | {"revision": config.get("revision")})


def load_error(name: str, error: Exception) -> Exception:
    """What is raised where a model cannot be loaded: the library's reason, and what to do."""
    reason = shortened(error)
    if not isinstance(error, (ImportError, OSError, ValueError, SafetensorError)):
        reason = f"{type(error).__name__}: {reason}"  # "'silu'" alone says nothing
    if Path(name).is_file():
        return ValueError(f"model {name!r}: is a file. Give the folder that it lies in.")
    if "trust_remote_code" in str(error):
        return ValueError(
            f"model {name!r}: comes with code of its own, and no file can say that it may run. If "
            "you trust that code, say so yourself, each time: --trust-remote-code "
            "(trust_remote_code=True)."
        )
    if isinstance(error, ImportError):
        return ValueError(
            f"model {name!r}: cannot be loaded without a package that is not here ({reason}). "
            "Install it, or take the model's weights as they were before they were quantised."
        )
    if Path(name).is_dir() or not isinstance(error, OSError):
        return ValueError(
            f"model {name!r}: cannot be loaded ({reason}). It must hold config.json, "
            "*.safetensors and a tokenizer of a causal language model."
        )
    return FileNotFoundError(
        f"model {name!r}: no such folder, and the hub does not give it ({reason}). "
        "Give micro, smollm2, a folder or a hub id (owner/name)."
    )


def add_lora(
    language_model: LanguageModel,
    rank: int,
    *,
    alpha: float | None = None,
    targets: tuple[str, ...] | None = None,
    seed: int = 0,
) -> LanguageModel:
    """The same model with a new LoRA adapter; the reference is the adapter switched off.

    Args:
        language_model: A plain model; it is changed in place.
        rank: Rank of the adapter, at least 1.
        alpha: Scale of the adapter; twice the rank by default.
        targets: Names of the modules to adapt; every linear layer but the head by default.
        seed: Seed of the adapter's first weights (the other half is zero, so it changes nothing
            until it is trained).

    Raises:
        ValueError: If the rank or the targets do not fit the model, or it has an adapter.
    """
    if rank < 1:
        raise ValueError(
            f"lora_rank={rank}: must be at least 1. Leave it out to train all weights."
        )
    if language_model.merged or language_model.lora:
        raise ValueError(
            f"model {language_model.name!r}: carries an adapter already, and a second one, saved "
            "alone, would be loaded onto the base without the first. Load it with load_model, "
            "which merges the adapter, save that with save_model, and start from that folder."
        )
    alpha = 2 * rank if alpha is None else alpha
    model = new_adapter(language_model.model, rank, alpha, targets, seed)
    return LanguageModel(
        model, language_model.tokenizer, language_model.name, language_model.origin
    )
