"""Estimates memory and time of a training step from the configuration, without loading weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from dpo_lab.data.packing import pack, packed_groups
from dpo_lab.data.pair_sequences import PairSequences
from dpo_lab.data.shares import shares
from dpo_lab.data.tokenized_pairs import TokenizedPairs
from dpo_lab.kernels.head import TILE
from dpo_lab.kernels.lean_layers import LeanLayers
from dpo_lab.kernels.threads import is_small
from dpo_lab.models.adapters import new_adapter
from dpo_lab.models.builtin import builtin_model
from dpo_lab.models.devices import resolve_device
from dpo_lab.models.loading import LanguageModel, load_error
from dpo_lab.models.model_settings import Strategy
from dpo_lab.models.sharding import layers_of
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.pair_gradient import NO_BALANCE
from dpo_lab.training.setup import load_data, micro_batch_tokens, tokenize
from dpo_lab.training.step_plan import StepPlan, plan_of
from dpo_lab.training.text_record import with_template

FLOAT = 4
FOUR_BITS = 4.127
"""Bits of a weight in NF4 with scales that are quantised too (QLoRA, section 3)."""
PROCESS_GB = 0.5
"""Memory of interpreter and libraries, measured on Linux with torch 2.13 for the CPU."""
EFFICIENCY = 0.6
"""A step's speed as a share of the best matrix product's, measured on two cores."""
FRAGMENTATION = 1.5
"""Heap size over the peak of arrays held at once, since their sizes keep changing; the same within
10 % on the three lab cases of `benchmarks/vs_trl.py`."""
PROBED_STEPS = 32
PROBE_ROWS, PROBE_LENGTH = 4, 16


@dataclass(frozen=True)
class CostEstimate:
    """Memory and time of an optimiser step; memory on each of its devices.

    Attributes:
        memory: GB by purpose (weights, gradients, activations, ...).
        pairs: Pairs per step.
        tokens: Tokens that a step computes (shared prefixes once), on average.
        scored: Response tokens that a step scores (shared prefixes once), on average.
        micro_batches: Forward and backward passes per step of the device with most, on average.
        work: Floating-point operations per step, including the head's recomputation.
        most_work: Those of the device that has most, on average: the others wait for it.
        devices: Processes that divide the step, each with a device of its own.
    """

    memory: dict[str, float]
    pairs: int
    tokens: float
    scored: float
    micro_batches: float
    work: float
    most_work: float
    devices: int = 1

    @property
    def total_gb(self) -> float:
        """Peak memory, GB."""
        return sum(self.memory.values())

    def seconds(self, products_per_second: float) -> float:
        """Time of a step on devices whose best matrix product runs at this many FLOP/s each.

        What they exchange is not counted.
        """
        return self.most_work / products_per_second / EFFICIENCY


@dataclass(frozen=True)
class _Batches:
    """Sizes of the first steps of a run, `(steps, devices)`, and of the largest micro-batch."""

    micro_batches: Tensor
    tokens: Tensor
    scored: Tensor
    most_tokens: int
    most_scored: int


def estimate(config: TrainConfig, devices: int = 1, strategy: Strategy = "ddp") -> CostEstimate:
    """Estimate a training step; no weight is loaded, but the data is tokenised.

    Args:
        config: The configuration of the run.
        devices: Processes that divide the step, each with a device of its own.
        strategy: What they divide, see `prepare`.

    Returns:
        The estimate, for float32.

    Raises:
        FileNotFoundError: If model or data are not found.
        ValueError: If data, model or configuration do not fit together, gradient checkpointing is
            on, or the method samples.
    """
    if strategy == "fsdp" and config.router_aux_loss_coef:
        raise ValueError(NO_BALANCE)
    if config.on_policy:
        raise ValueError(
            f"method={config.method}: what its samples take is not estimated. Estimate a step of "
            "--method dpo, which has as many tokens with two answers to a prompt; sampling comes "
            "on top."
        )
    if config.gradient_checkpointing:
        raise ValueError(
            "gradient_checkpointing=True: what it saves is not estimated. Leave it out; with it, a "
            "step takes less memory and more time than the estimate."
        )
    path, origin = builtin_model(config.model)
    try:
        model = _on_meta(path, config)
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise load_error(config.model, error) from error
    language_model = LanguageModel(model, tokenizer, path, origin)
    config = with_template(language_model, config)
    train, _ = load_data(config)
    tokens = tokenize(config, train, language_model.tokenizer)
    budget = micro_batch_tokens(config, resolve_device(config.device))
    batches = _first_batches(config, tokens, budget, devices)
    divided = devices if strategy == "fsdp" else 1
    work = _work(config, language_model.base, batches)
    return CostEstimate(
        # Evaluations need the reference, and so do the scores before and after training.
        memory=_memory(
            config, language_model, batches, bool(config.eval_every or train.reward_fn), divided
        ),
        pairs=config.batch_pairs,
        tokens=batches.tokens.sum(1).mean().item(),
        scored=batches.scored.sum(1).mean().item(),
        micro_batches=batches.micro_batches.amax(1).mean().item(),
        work=work.sum(1).mean().item(),
        most_work=work.amax(1).mean().item(),
        devices=devices,
    )


def best_product(device: torch.device, size: int = 2048, repeats: int = 10) -> float:
    """Floating-point operations per second of the fastest of several float32 matrix products."""
    a, b = torch.randn(2, size, size, device=device)
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    best = 0.0
    for _ in range(repeats):
        wait()
        started = time.perf_counter()
        a @ b
        wait()
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def _on_meta(path: str, config: TrainConfig) -> nn.Module:
    settings = AutoConfig.from_pretrained(
        path, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
        model.train()
        if config.lora_rank is None:
            return model
        alpha = config.lora_alpha or 2 * config.lora_rank
        return new_adapter(model, config.lora_rank, alpha, config.lora_targets, config.seed)


def _first_batches(
    config: TrainConfig, tokens: TokenizedPairs, budget: int, devices: int
) -> _Batches:
    order = plan_of(StepPlan, config, tokens)
    steps = min(PROBED_STEPS, order.total_steps)
    sums, largest = torch.zeros(3, steps, devices, dtype=torch.float64), [0, 0]
    for step in range(steps):
        pairs = [tokens[index] for index in order.batch(step)]
        for rank, share in enumerate(shares(pairs, devices)):
            ours = [pairs[position] for position in share]
            items = [PairSequences.of([pair]).scored for pair in ours]
            for group in packed_groups(items, budget):
                batch = pack([sequence for index in group for sequence in items[index]])
                sizes = batch.input_ids.numel(), len(batch.targets)
                sums[:, step, rank] += torch.tensor([1, *sizes])
                largest = [max(pair) for pair in zip(largest, sizes, strict=True)]
    return _Batches(*sums, *largest)


def _memory(
    config: TrainConfig, lm: LanguageModel, batches: _Batches, keeps_reference: bool, divided: int
) -> dict[str, float]:
    weights = list(lm.model.parameters())
    whole = sum(weight.numel() for weight in weights)
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    head = lm.base.get_output_embeddings().weight
    tile = min(batches.most_scored, TILE[0]) * min(len(head), TILE[1])
    plain = is_small(lm.model) or divided > 1
    # Logits and the softmax over them; the gradients of head and embedding.
    head_elements = 2 * tile + 2 * head.numel() * (head.requires_grad and plain)
    copy = keeps_reference and not lm.lora
    sizes = {
        "weights": (whole - _saved_by_quantising(config, lm)) / divided,
        "reference": whole * copy / divided,
        "gradients": trained / divided,
        "optimiser": trained * (2 if config.optimizer == "adamw" else 1) / divided,
        "gathered": _gathered(lm.base) if divided > 1 else 0,
        "activations": batches.most_tokens * _activations(lm.base, plain),
        "head": head_elements,
    }
    if divided == 1:
        sizes["activations"] *= FRAGMENTATION
    elif resolve_device(config.device).type == "cpu":
        outside, _ = _parts(lm.base)
        sizes["while loading"] = max(0, whole + outside - sum(sizes.values()))
    gigabytes = {name: elements * FLOAT / 1e9 for name, elements in sizes.items()}
    return {"process": PROCESS_GB} | gigabytes


def _saved_by_quantising(config: TrainConfig, lm: LanguageModel) -> float:
    """Elements of float32 that the linear layers under the adapter take less than unquantised."""
    if config.quantize is None:
        return 0.0
    head = lm.base.get_output_embeddings()
    layers = [m for m in lm.base.modules() if type(m) is nn.Linear and m is not head]
    frozen = (layer.weight for layer in layers if not layer.weight.requires_grad)
    return sum(weight.numel() for weight in frozen) * (1 - FOUR_BITS / (8 * FLOAT))


def _gathered(model: nn.Module) -> int:
    """Weights that a process holds whole in the backward pass of a layer.

    Those outside the layers; those of the largest layer, and of one that is fetched already.
    """
    outside, largest = _parts(model)
    return outside + 2 * largest


def _parts(model: nn.Module) -> tuple[int, int]:
    """Numbers of weights outside the layers, and in the largest layer."""
    sizes = [sum(w.numel() for w in layer.parameters()) for layer in layers_of(model)]
    return sum(w.numel() for w in model.parameters()) - sum(sizes), max(sizes, default=0)


def _activations(model: nn.Module, plain: bool) -> float:
    """Elements that the trunk saves for its backward pass, per token."""
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    ids = torch.zeros(PROBE_ROWS, PROBE_LENGTH, dtype=torch.long, device="meta")
    mask = torch.zeros(PROBE_ROWS, 1, PROBE_LENGTH, PROBE_LENGTH, device="meta")
    trunk = getattr(model, model.base_model_prefix)
    lean = nullcontext() if plain else LeanLayers(model)()
    with lean, saved_tensors_hooks(keep, lambda tensor: tensor):
        output = trunk(
            input_ids=ids, attention_mask=mask, use_cache=False
        )  # keeps the saved storages alive
        kept_bytes = sum(kept.values())
        del output
    return kept_bytes / ids.numel() / FLOAT


def multiplied_weights(model: nn.Module) -> tuple[int, int]:
    """Numbers of weights in the trunk's and the head's matrix products, for each token.

    The embedding is only looked up, and an adapter is too small to count.
    """
    ends = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    trunk = sum(
        weight.numel()
        for name, weight in model.named_parameters()
        if weight.dim() == 2 and all(weight is not end for end in ends) and "lora_" not in name
    )
    return trunk, ends[1].numel()


def _work(config: TrainConfig, model: nn.Module, batches: _Batches) -> Tensor:
    """FLOPs of each device in each step, `(steps, devices)`.

    Per weight 2 forward, 2 for the input's gradient and 2 for its own; the head's logits twice.
    """
    trunk, head = multiplied_weights(model)
    per_weight = 4 if config.lora_rank is not None else 6
    return per_weight * trunk * batches.tokens + (per_weight + 2) * head * batches.scored
