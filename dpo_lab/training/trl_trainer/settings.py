"""The settings of a run from the arguments of TRL's trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from transformers import TrainingArguments

from dpo_lab.objective.registry import LOSSES
from dpo_lab.training.trl_trainer.fields import refuse

WHOLE = 2**31 - 1
"""For limits where there is none."""
NO_CLIPPING = 1e30
SCHEDULES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
OPTIMIZERS = {"adamw_torch": "adamw", "adamw_torch_fused": "adamw", "rmsprop": "rmsprop"}
SMOOTHED = {"robust", "exo_pair", "aot", "aot_unpaired"}
"""Losses whose labels TRL smooths."""
NO_CONFIG = "args: a {} is no configuration of DPO. Give a trl.DPOConfig, or the lab's TrainConfig."


def settings_of(args: TrainingArguments, model_config: Any = None) -> dict[str, Any]:
    """Settings of `TrainConfig`, by name.

    Args:
        args: A `trl.DPOConfig` or its like.
        model_config: The model's `config`, for the coefficient of a mixture of experts.

    Raises:
        TypeError: If it is no configuration of DPO.
        ValueError: If it asks for something that the lab does not have.
    """
    if not isinstance(args, TrainingArguments) or not hasattr(args, "beta"):
        raise TypeError(NO_CONFIG.format(type(args).__name__))
    refuse(args)
    settings = {
        **_optimisation(args),
        **_loss(args),
        **_lengths(args),
        "router_aux_loss_coef": _router_coefficient(args, model_config),
        "seed": args.seed,
        "held_out": 0.0,
        "device": "cpu" if args.use_cpu else "auto",
        # On the CPU bfloat16 takes hundreds of times as long, and float32 is what it stands for.
        "precision": "auto" if args.bf16 else "float32",
        "gradient_checkpointing": bool(args.activation_checkpointing),
        "trust_remote_code": args.trust_remote_code,
    }
    return {name: value for name, value in settings.items() if value is not None}


def _optimisation(args: TrainingArguments) -> dict[str, Any]:
    schedule, optimizer = _text(args.lr_scheduler_type), _text(args.optim)
    for name, value, known in (
        ("lr_scheduler_type", schedule, SCHEDULES),
        ("optim", optimizer, OPTIMIZERS),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r}: the lab has {', '.join(known)}. Use one of them.")
    if args.train_sampling_strategy not in ("random", "sequential"):
        raise ValueError(
            f"train_sampling_strategy={args.train_sampling_strategy!r}: the lab takes the pairs in "
            "'random' order, TRL's own for the seed, or 'sequential'. Packing needs no other."
        )
    if args.optim_args and optimizer != "rmsprop":
        raise ValueError(f"optim_args={args.optim_args!r}: AdamW takes none. Leave it out.")
    by_steps = args.max_steps > 0
    return {
        "batch_pairs": pairs_per_step(args),
        "steps": args.max_steps if by_steps else None,
        "epochs": None if by_steps else float(args.num_train_epochs),
        "learning_rate": args.learning_rate,
        "schedule": SCHEDULES[schedule],
        "warmup_steps": int(args.warmup_steps) if args.warmup_steps >= 1 else None,
        "optimizer": OPTIMIZERS[optimizer],
        "weight_decay": args.weight_decay,
        "max_grad_norm": args.max_grad_norm or NO_CLIPPING,
    }


def pairs_per_step(args: TrainingArguments) -> int:
    """Pairs of an optimiser step, of all processes and accumulated batches together."""
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size


def _lengths(args: TrainingArguments) -> dict[str, Any]:
    if args.truncation_mode != "keep_start":
        raise ValueError(
            f"truncation_mode={args.truncation_mode!r}: it cuts the beginning of what is scored, "
            "and TRL removes it too. Use 'keep_start', or cut the rows before."
        )
    length = args.max_length or WHOLE
    # A prompt loses nothing, and a response its end, as TRL's keep_start does.
    return {"max_length": length, "max_prompt_length": length}


def _loss(args: TrainingArguments) -> dict[str, Any]:
    kinds = [args.loss_type] if isinstance(args.loss_type, str) else list(args.loss_type)
    weights = args.loss_weights or [1.0] * len(kinds)
    names = [_loss_name(kind) for kind in kinds]
    settings = {
        "loss": _weighted(names, weights),
        "beta": args.beta,
        "ld_alpha": args.ld_alpha,
        "use_weighting": args.use_weighting,
        "f_divergence_type": _text(args.f_divergence_type),
    }
    if settings["f_divergence_type"] == "alpha_divergence":
        settings["f_alpha_divergence_coef"] = args.f_alpha_divergence_coef
    if "discopop" in kinds:
        settings["discopop_tau"] = args.discopop_tau
    settings["label_smoothing"] = _smoothing(args.label_smoothing, names)
    return settings


def _loss_name(kind: str) -> str:
    """The lab's name of a loss of TRL's."""
    theirs = {loss.trl: name for name, loss in LOSSES.items() if loss.trl}
    if kind not in theirs and kind not in LOSSES:
        raise ValueError(f"loss_type={kind!r}: unknown. Use one of {', '.join(theirs)}.")
    return theirs.get(kind, kind)


def _weighted(names: Sequence[str], weights: Sequence[float]) -> str:
    if any(weight < 0 for weight in weights):
        raise ValueError(f"loss_weights={weights}: a weight is below 0. Leave that loss out.")
    terms = [(weight, name) for weight, name in zip(weights, names, strict=True) if weight]
    words = [name if weight == 1 else f"{_digits(weight)} {name}" for weight, name in terms]
    return " + ".join(words)


def _digits(number: float) -> str:
    return f"{number:.12f}".rstrip("0").rstrip(".")


def _smoothing(value: float, names: Sequence[str]) -> float | None:
    """Label smoothing, where TRL and the lab smooth the labels of the same losses.

    Raises:
        ValueError: If they do not, or a loss needs some.
    """
    if "exo_pair" in names and not value:
        raise ValueError(
            "label_smoothing=0: exo_pair needs more, such as 1e-3. Give label_smoothing."
        )
    if not value:
        return None
    ours = {name for name in names if "label_smoothing" in LOSSES[name].own_options}
    theirs = SMOOTHED & set(names)
    if ours != theirs or not theirs:
        odd = sorted((ours or set(names)) - theirs)[0]
        raise ValueError(
            f"label_smoothing={value}: TRL does not smooth the labels of {odd!r}, and says so "
            "nowhere. Use 'robust', or leave it out; for conservative DPO give args a TrainConfig "
            "with label_smoothing."
        )
    return value


def _router_coefficient(args: TrainingArguments, model_config: Any) -> float | None:
    """The coefficient of the load-balancing loss: TRL takes the model's own if none is given."""
    given = args.router_aux_loss_coef
    if given is None and model_config is not None:
        text = model_config.get_text_config()
        given = getattr(text, "router_aux_loss_coef", 0.0) or 0.0
        given = given if hasattr(text, "output_router_logits") else 0.0
    return given or None


def _text(value: Any) -> str:
    """The text of a setting that may be an enumeration's member."""
    return str(getattr(value, "value", value))


def quarters(total: int) -> frozenset[int]:
    """Steps that end a quarter of a run."""
    return frozenset(math.ceil(total * part / 4) for part in range(1, 5))
