"""LoRA adapters for `transformers` models: add, load and merge them without other changes."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MethodType

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from dpo_lab.models.quantised import quiet_bitsandbytes

logger = logging.getLogger(__name__)

_ONE_AT_A_TIME = threading.RLock()

# peft is imported in the functions that use it, since its import takes more than a second.


def new_adapter(
    model: nn.Module, rank: int, alpha: float, targets: tuple[str, ...] | None, seed: int
) -> nn.Module:
    """The model with a new adapter, which has no effect until it is trained.

    Args:
        model: A `transformers` model; it is changed in place.
        rank: Rank of the adapter.
        alpha: LoRA's alpha: the adapter is scaled by alpha / rank.
        targets: Names of the modules to adapt; by default every linear layer, except the head and
            layers that cannot take an adapter.
        seed: Seed of the adapter's initial weights.

    Raises:
        ValueError: If a target names no module, or a module that cannot take an adapter.

    Source:
        Hu et al. 2021 (arXiv 2106.09685).
    """
    with quiet_peft():
        from peft import LoraConfig, get_peft_model

    names = [f".{name}" for name, _ in model.named_modules()]
    for target in targets or ():
        if not any(name.endswith(f".{target}") for name in names):
            raise ValueError(
                f"lora_targets: the model has no module {target!r}, so nothing would be adapted "
                "there. Use the model's module names, or leave targets out for all linear layers."
            )
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(targets) if targets else "all-linear",
        exclude_modules=None if targets else _takes_no_adapter(model) or None,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    # With the commit, the saved adapter names exactly the weights that it was trained on.
    commit = getattr(model.config, "_commit_hash", None)
    with seeded(model.device, seed), quiet_peft():
        try:
            adapted = get_peft_model(model, config, revision=commit)
        except ValueError as error:
            reason = str(error).split(". ")[0].replace("target_modules", "lora_targets")
            raise ValueError(
                f"lora_targets: PEFT puts no adapter there ({reason}). Name other modules, or "
                "leave targets out to adapt all linear layers that take one."
            ) from error
    _fuse(adapted)
    return adapted


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Hide that PEFT uses an attribute which the next major version of transformers renames."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        with quiet_bitsandbytes():  # which PEFT imports, if it is there
            yield


def _takes_no_adapter(model: nn.Module) -> list[str]:
    """Linear layers whose forward is more than a product, or that a kernel bypasses."""
    names = []
    for name, module in model.named_modules():
        theirs = type(module).__module__.startswith("transformers.")
        own_forward = theirs and type(module).forward is not nn.Linear.forward
        if isinstance(module, nn.Linear) and own_forward:  # a router, a grouped layer
            names.append(name)
        kind = f"{name} {type(module).__name__}".lower()
        if "mamba" in kind and hasattr(module, "out_proj"):
            names.append(f"{name}.out_proj")
    return names


def changes_nothing(model: nn.Module) -> bool:
    """Whether an adapter has no effect: in each product of two factors, one factor is zero."""
    zero = "lora_B.", "lora_embedding_A."
    return not any(
        weight.any() for name, weight in model.named_parameters() if any(z in name for z in zero)
    )


def load_adapted(
    folder: str, load_base: Callable[[str, str | None], nn.Module], merge: bool = True
) -> nn.Module:
    """The base model that an adapter was trained on, with the adapter merged into it.

    Args:
        folder: The adapter's folder.
        load_base: Loads the base, given its name and revision.
        merge: Whether to merge; otherwise the adapter stays beside the base's weights.
    """
    with quiet_peft():
        from peft import PeftConfig, PeftModel

    if not (Path(folder) / "adapter_model.safetensors").exists():
        raise ValueError("adapter_model.safetensors is missing; a pickle is not read")
    config = PeftConfig.from_pretrained(folder)
    base = load_base(config.base_model_name_or_path, config.revision)
    _resize(base, folder)
    with quiet_peft():
        model = PeftModel.from_pretrained(base, folder)
    if not merge:
        return model
    _untie(model.get_base_model())
    return model.merge_and_unload()


def _resize(base: nn.Module, folder: str) -> None:
    """Resize the base's embedding to that saved with the adapter, if the adapter has one.

    Raises:
        ValueError: If the head's rows for new ids are not saved, so that they would be random.
    """
    ends = base.get_input_embeddings(), base.get_output_embeddings()
    names = {module: name for name, module in base.named_modules() if module in ends}
    with safe_open(Path(folder) / "adapter_model.safetensors", "pt") as file:
        saved = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118

    def rows(module: nn.Module) -> int | None:
        ending = (f".{names[module]}.weight", f".{names[module]}.base_layer.weight")
        return next((shape[0] for key, shape in saved.items() if key.endswith(ending)), None)

    known, ids = ends[0].weight.shape[0], rows(ends[0])
    if ids in (None, known):
        return
    own_head = ends[1] is not None and ends[1].weight is not ends[0].weight
    if ids > known and own_head and rows(ends[1]) != ids:
        raise ValueError(
            f"it was trained on {ids} ids, its base has {known}, and the head's rows for the new "
            "ones are not saved with it"
        )
    logger.warning("%s: was trained on %d ids; its base of %d is resized.", folder, ids, known)
    base.resize_token_embeddings(ids, mean_resizing=False)  # the adapter replaces the new rows


def load_adapter(
    model: nn.Module, folder: Path, divided: Callable[[Tensor], Tensor] | None = None
) -> set[str]:
    """Load saved weights into the model's adapter.

    Args:
        model: The model with its adapter.
        folder: The folder.
        divided: Gives a process's part of a weight, if the model is divided.

    Returns:
        Names of weights that only the adapter or only the file has; empty if they match.
    """
    from peft import set_peft_model_state_dict

    saved = load_file(folder / "adapter_model.safetensors")
    saved = {name: divided(weight) if divided else weight for name, weight in saved.items()}
    result = set_peft_model_state_dict(model, saved)
    return {name for name in result.missing_keys if "lora_" in name} | set(result.unexpected_keys)


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the random generators of the CPU and a device; their states are restored afterwards.

    PyTorch shares one generator per device between threads, so only one thread may be inside.
    """
    with _ONE_AT_A_TIME:
        generators = [torch.default_generator]
        if device.type == "cuda":
            generators.append(torch.cuda.default_generators[device.index])
        elif device.type == "mps":
            generators.append(torch.mps._get_default_mps_generator())
        states = [generator.get_state() for generator in generators]
        for generator in generators:
            generator.manual_seed(seed)
        try:
            yield
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


def _fuse(model: nn.Module) -> None:
    """Compute each adapted linear layer's sum with one `addmm`.

    PEFT scales the adapter's output and adds it in two passes over arrays as large as the layer's
    output, and two more in the backward pass; `addmm` avoids all four.
    """
    from peft.tuners.lora import Linear

    for layer in model.modules():
        if type(layer) is Linear and not layer.lora_variant:
            layer.forward = MethodType(_fused_forward, layer)


def _fused_forward(layer: nn.Module, x: Tensor, *arguments, **options) -> Tensor:
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or layer.merged or len(active) != 1 or arguments or options:
        return type(layer).forward(layer, x, *arguments, **options)
    (name,) = active
    rows = x.flatten(0, -2)
    output = layer.base_layer(rows)
    inner, outer = rows @ layer.lora_A[name].weight.T, layer.lora_B[name].weight.T
    # Autocast makes products bfloat16, but does not cast the inputs of an in-place operation.
    kind = output.dtype
    output.addmm_(inner.to(kind), outer.to(kind), alpha=layer.scaling[name])
    return output.view(*x.shape[:-1], output.shape[-1])


def _untie(model: nn.Module) -> None:
    """Untie head and embedding if either has an adapter.

    Merging writes into the adapted module's weights; while these are tied, it would change both.
    """
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    inner, outer = (getattr(module, "base_layer", module) for module in ends)
    if inner.weight is outer.weight and (inner, outer) != ends:
        outer.weight = nn.Parameter(outer.weight.detach().clone())
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False
