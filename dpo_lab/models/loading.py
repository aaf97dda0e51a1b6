"""Models by name: `micro`, `smollm2`, a hub id or a folder; plain or with LoRA."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from dpo_lab.data.quoting import shortened
from dpo_lab.data.templates import use_template
from dpo_lab.data.text_to_ids import Encoder
from dpo_lab.models.adapters import load_adapter, load_merged, new_adapter
from dpo_lab.models.bars import no_bars
from dpo_lab.models.builtin import BUILTIN_MODELS, builtin_model
from dpo_lab.models.checksums import NAME as CHECKSUMS, check_files
from dpo_lab.models.choices import Answers, Device, Precision
from dpo_lab.models.dropout import disable_dropout
from dpo_lab.models.hub import hub_folder

logger = logging.getLogger(__name__)

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
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    name: str
    origin: str
    merged: bool = False
    answers: Answers | None = None

    def __post_init__(self) -> None:
        self.encoder = Encoder(self.tokenizer, known_ids(self.base))

    def use_template(self, template: str | None = None, day: str | None = None) -> None:
        """Write conversations by a template, and on a day, other than its own and today.

        Args:
            template: The template's text; by default it keeps its own.
            day: The date that a template writes which asks for it, as 2026-01-31.

        Raises:
            ValueError: If the template is no Jinja, or the day no date.
        """
        use_template(self.tokenizer, template, day)
        self.encoder = Encoder(self.tokenizer, known_ids(self.base))

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device

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
) -> LanguageModel:
    """Load a model in float32 with dropout off, and its tokenizer.

    Args:
        name: `micro`, `smollm2`, a hub id, or a folder (a checkpoint of a run, plain or adapter,
            too; an adapter is merged into its base, which is resized to the adapter's vocabulary,
            and without a tokenizer of its own has its base's).
        device: `auto` takes CUDA, then MPS, then the CPU.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Whether code that comes with the model may run.

    Returns:
        The model, on its device.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If it is no causal language model with all its weights in safetensors.
    """
    path, origin = builtin_model(str(name))
    try:
        check_files(Path(path), lambda file: file != "trainer.pt")
    except ValueError as error:
        raise ValueError(
            f"model {str(name)!r}: {error}. Take a copy that is whole; or, if it was changed on "
            f"purpose, remove {CHECKSUMS} there."
        ) from None
    options = {"revision": revision, "trust_remote_code": trust_remote_code}

    def load(base: str, revision: str | None) -> nn.Module:
        # A built-in model lies elsewhere on another machine, or for another user.
        moved = Path(base).is_absolute() and not Path(base).exists()
        if moved and Path(base).name in BUILTIN_MODELS:
            base, _ = builtin_model(Path(base).name)
        return _load_plain(base, revision=revision, trust_remote_code=trust_remote_code)

    try:
        with no_bars():
            folder = Path(path) if Path(path).is_dir() else hub_folder(path, revision)
            adapter = (folder / "adapter_config.json").exists()
            model = load_merged(str(folder), load) if adapter else load(path, revision)
            if adapter:
                tokenizer = _tokenizer_of_adapter(folder, **options)
            else:
                tokenizer = _load_tokenizer(path, **options)
    except Exception as error:  # what is wrong in a model's files fails in any way
        raise load_error(str(name), error) from error
    disable_dropout(model)
    model.to(resolve_device(device))
    return LanguageModel(model, tokenizer, str(name), origin, merged=adapter)


def known_ids(model: nn.Module) -> int | None:
    """How many ids a `transformers` model has an embedding for, as far as it says."""
    try:
        weight = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:  # of a model that keeps it where none looks for it
        return None
    return None if weight is None else weight.shape[0]


def _load_plain(path: str, **options) -> nn.Module:
    model, found = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=torch.float32,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # to be told which: they are refused here
        **options,
    )
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


def resolve_device(device: str) -> torch.device:
    """The device meant by a name; `auto` is the fastest there is.

    Raises:
        ValueError: If the machine has no such device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available.get(device.split(":")[0], False):
        there = ", ".join(name for name, there in available.items() if there)
        raise ValueError(
            f"device={device!r}: this machine has {there}. Use 'auto' or one of these."
        )
    return torch.device(device)


def resolve_precision(precision: Precision, device: torch.device) -> Literal["float32", "bfloat16"]:
    """The arithmetic meant by a name.

    `auto` is bfloat16 autocast on CUDA that has it, else float32. Weights, the head, log-softmax,
    sums and losses are float32 either way. On a CPU, bfloat16 is hundreds of times slower than
    float32 unless it has instructions for it, so `auto` never picks it there.

    Raises:
        ValueError: If there is no such precision.
    """
    if precision not in get_args(Precision):
        raise ValueError(
            f"precision={precision!r}: the lab knows no such arithmetic. "
            f"Use one of {', '.join(get_args(Precision))}."
        )
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return "bfloat16" if fast else "float32"
    return precision


def weights_fingerprint(model: nn.Module) -> str:
    """Hash of a model's weights and of the configuration that gives them meaning.

    Two models with equal fingerprints compute the same function; a model changed in memory has
    another one than the name it was loaded by. Adapters count with their scale, and with whether
    they are on.
    """
    digest = hashlib.blake2b(digest_size=16)
    config = model.config.to_dict()
    for volatile in ("_name_or_path", "transformers_version", "dtype", "use_cache"):
        config.pop(volatile, None)
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, module in model.named_modules():
        if hasattr(module, "merged_adapters"):  # a layer of PEFT's
            on = not module.disable_adapters and module.active_adapters
            scales = sorted(getattr(module, "scaling", {}).items())
            digest.update(repr((name, on, module.merged_adapters, scales)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


def save_model(language_model: LanguageModel, folder: Path) -> None:
    """Write model (or adapter) and tokenizer as `from_pretrained` loads them, in safetensors."""
    with no_bars():
        language_model.model.save_pretrained(folder)
    language_model.tokenizer.save_pretrained(folder)


def load_weights(language_model: LanguageModel, folder: Path) -> None:
    """Put the weights that `save_model` wrote into a model of the same shape.

    Raises:
        ValueError: If they are not of such a model.
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
    """The configuration is the model's at hand: nothing but weights is read from the folder."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no model.safetensors in {folder}")
    saved, found = type(model).from_pretrained(
        None,
        config=copy.deepcopy(model.config),
        state_dict={name: weight for file in files for name, weight in load_file(file).items()},
        dtype=torch.float32,
        output_loading_info=True,
    )
    unmatched = found["missing_keys"] | found["unexpected_keys"]
    if not unmatched:
        model.load_state_dict(saved.state_dict())
    return unmatched
