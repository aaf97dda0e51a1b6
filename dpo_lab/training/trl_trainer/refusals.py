"""Arguments, callbacks and overridden methods of TRL's trainer that the lab has no place for."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from dpo_lab.training.config import TrainConfig

NO_PLACE = {
    "data_collator": "the lab lays out token ids by itself, and pads nothing",
    "compute_metrics": "the lab builds no logits; evaluate() returns loss, rewards and KL",
    "quantization_config": "the trainer does not train quantised weights",
}
INSIDE_A_STEP = ("on_substep_end", "on_pre_optimizer_step", "on_optimizer_step")
OVERRIDDEN = (
    *("compute_loss", "training_step", "prediction_step", "get_train_dataloader", "predict"),
    *("get_eval_dataloader", "create_optimizer", "create_scheduler", "floating_point_ops"),
    *("create_optimizer_and_scheduler", "_get_train_sampler", "_prepare_dataset", "_compute_loss"),
    *("concatenated_forward", "get_batch_loss_metrics", "dpo_loss", "optimizer_step"),
    *("compute_ref_log_probs", "hyperparameter_search", "tokenize_row", "process_row"),
)


def check_arguments(args: Any, train_dataset: Any, optimizers: Any, **no_place: Any) -> None:
    """Refuse what the trainer cannot take.

    Raises:
        TypeError: If `args` is of another kind.
        ValueError: Naming the argument and the reason.
    """
    if train_dataset is None:
        raise ValueError("train_dataset: none is given. Give a datasets.Dataset of preferences.")
    for name, value in no_place.items():
        if value is not None:
            raise ValueError(f"{name}: {NO_PLACE[name]}. Leave it out.")
    if any(one is not None for one in optimizers or ()):
        raise ValueError(
            "optimizers: the lab builds optimiser and schedule from args (optim, learning_rate, "
            "lr_scheduler_type). Leave it out."
        )
    if args is not None and not isinstance(args, TrainConfig) and not hasattr(args, "beta"):
        raise TypeError(
            f"args: a {type(args).__name__} is no configuration of DPO. Give a DPOConfig, trl's or "
            "dpo_lab's, or a TrainConfig."
        )


def check_callback(callback: Any) -> None:
    """Refuse a callback that would silently not be called.

    Raises:
        TypeError: If it is no `TrainerCallback`.
        ValueError: If it asks to be called inside a step.
    """
    kind = callback if isinstance(callback, type) else type(callback)
    if not issubclass(kind, TrainerCallback):
        raise TypeError(
            f"callbacks: a {kind.__name__} is no transformers.TrainerCallback. Give one; the lab's "
            "own Callback goes to run_job and train."
        )
    for event in INSIDE_A_STEP:
        if getattr(kind, event) is not getattr(TrainerCallback, event):
            raise ValueError(
                f"callbacks: {kind.__name__}.{event} would be called inside a step, where the lab "
                "calls nothing. Use on_step_begin or on_step_end."
            )


def check_subclass(kind: type) -> None:
    """Refuse a subclass that overrides a method which nothing would call.

    Raises:
        TypeError: Naming the method.
    """
    for name in OVERRIDDEN:
        if name in vars(kind):
            raise TypeError(
                f"{kind.__name__}.{name}: nothing calls it here, so it would change nothing. A "
                "loss of one's own is a function under dpo_lab.objective.registry.register; see "
                "CONTRIBUTING.md."
            )
