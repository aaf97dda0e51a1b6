"""Every field of TRL's `DPOConfig`: used, without effect on any number, or refused with a reason.

A test compares the three lists with the fields that TRL has, so that a new one cannot pass
unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from transformers import TrainingArguments

from dpo_lab.data.quoting import shortened

USED = frozenset(
    """
    output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate
    lr_scheduler_type warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon
    gradient_accumulation_steps max_grad_norm bf16 activation_checkpointing gradient_checkpointing
    logging_strategy logging_steps logging_first_step disable_tqdm report_to run_name project
    trackio_space_id trackio_bucket_id trackio_static_space_id eval_strategy eval_steps eval_delay
    eval_on_start save_strategy save_steps save_total_limit push_to_hub hub_token hub_private_repo
    hub_model_id hub_revision load_best_model_at_end metric_for_best_model greater_is_better seed
    data_seed use_cpu dataloader_drop_last train_sampling_strategy model_init_kwargs
    trust_remote_code router_aux_loss_coef max_length loss_type loss_weights ld_alpha
    f_divergence_type f_alpha_divergence_coef label_smoothing beta use_weighting discopop_tau
    truncation_mode
    """.split()
)
"""What the trainer reads, here or through the callbacks of transformers."""

ON_ITS_OWN = "the lab does it in every run"
NO_LOADER = "there is no data loader: all token ids are in memory"
OWN_PROCESSES = "the lab divides pairs among processes by itself"
NO_PART = "it has no part without the setting that it belongs to"
OWN_BATCHES = "held-out pairs are scored together, in passes of a fixed number of tokens"
HARMLESS: Mapping[str, str] = {
    "average_tokens_across_devices": "losses are means over pairs",
    "tf32": "transformers sets it by itself",
    "activation_checkpointing_kwargs": "both ways of recomputing give the same numbers",
    "gradient_checkpointing_kwargs": "both ways of recomputing give the same numbers",
    "torch_compile_backend": NO_PART,
    "torch_compile_mode": NO_PART,
    "liger_kernel_config": NO_PART,
    "use_liger_kernel": "its kernels give the same numbers; the lab has its own",
    "use_cache": "training keeps no cache",
    "torch_empty_cache_steps": "it frees memory between steps, and changes nothing else",
    "auto_find_batch_size": "a pass takes a fixed number of tokens, whatever the batch size",
    "log_on_each_node": "only the first process writes",
    "logging_nan_inf_filter": "a run stops at a loss that is not finite",
    "include_num_input_tokens_seen": "tokens per second are always logged",
    "log_level": "transformers sets it by itself",
    "log_level_replica": "transformers sets it by itself",
    "per_device_eval_batch_size": OWN_BATCHES,
    "prediction_loss_only": "no evaluation builds logits",
    "eval_do_concat_batches": OWN_BATCHES,
    "eval_use_gather_object": OWN_BATCHES,
    "eval_accumulation_steps": OWN_BATCHES,
    "include_for_metrics": NO_PART,
    "batch_eval_metrics": NO_PART,
    "save_only_model": "the run's own checkpoint holds the optimiser, so that it can be resumed",
    "save_on_each_node": "only the first process writes",
    "hub_strategy": "the model is pushed once, at the end",
    "hub_always_push": "the model is pushed once, at the end",
    "dataloader_num_workers": NO_LOADER,
    "dataloader_pin_memory": NO_LOADER,
    "dataloader_persistent_workers": NO_LOADER,
    "dataloader_prefetch_factor": NO_LOADER,
    "dataloader_multiprocessing_context": NO_LOADER,
    "dataloader_in_order": NO_LOADER,
    "remove_unused_columns": NO_LOADER,
    "length_column_name": NO_LOADER,
    "label_names": NO_LOADER,
    "ddp_find_unused_parameters": OWN_PROCESSES,
    "ddp_bucket_cap_mb": OWN_PROCESSES,
    "ddp_broadcast_buffers": OWN_PROCESSES,
    "ddp_static_graph": OWN_PROCESSES,
    "ddp_backend": OWN_PROCESSES,
    "ddp_timeout": OWN_PROCESSES,
    "local_rank": OWN_PROCESSES,
    "fsdp_config": NO_PART,
    "skip_memory_metrics": "peak memory is always logged",
    "do_train": "scripts read it, and no trainer does",
    "do_eval": "scripts read it, and no trainer does",
    "do_predict": "scripts read it, and no trainer does",
    "resume_from_checkpoint": "scripts read it and give it to train(), and no trainer does",
    "dataset_num_proc": "one process tokenises",
    "padding_free": ON_ITS_OWN + ": it packs, and pads nothing",
    "pad_to_multiple_of": "padding changes no number, and there is none",
    "precompute_ref_log_probs": ON_ITS_OWN + ", once, and keeps the values on disk",
    "precompute_ref_batch_size": ON_ITS_OWN + ", in passes of a fixed number of tokens",
    "ref_model_mixup_alpha": NO_PART,
    "ref_model_sync_steps": NO_PART,
    "pad_token": "padding changes no number",
    "disable_dropout": ON_ITS_OWN,
}
"""Without effect on any number of a run, and why."""

NOT_BUILT = "the lab does not have it"
REFUSED: Mapping[str, str] = {
    "lr_scheduler_kwargs": "its schedules take no options; leave it out",
    "optim_target_modules": "it belongs to optimisers that the lab does not have; leave it out",
    "label_smoothing_factor": "it smooths labels of tokens, which DPO has not, in TRL neither; "
    "label_smoothing is that of preferences",
    "fp16": "it has no loss scaling; use bf16, or neither",
    "bf16_full_eval": "it would measure another model than the one that trains; leave it out",
    "fp16_full_eval": "it would measure another model than the one that trains; leave it out",
    "torch_compile": NOT_BUILT + "; leave it out",
    "neftune_noise_alpha": "noise on embeddings would make the policy differ from what is measured;"
    " leave it out",
    "restore_callback_states_from_checkpoint": NOT_BUILT + "; leave it out",
    "ignore_data_skip": "a resumed run goes on with the next pairs; leave it out",
    "enable_jit_checkpoint": "a run's newest checkpoint is at most some minutes old, and a kill "
    "leaves it whole; leave it out",
    "full_determinism": "call torch.use_deterministic_algorithms(True) before, and leave it out",
    "accelerator_config": "batches follow the order that it has by default; leave it out",
    "parallelism_config": "dpo-lab train --processes N --strategy fsdp divides the model; leave it "
    "out",
    "fsdp": "dpo-lab train --processes N --strategy fsdp divides the model; leave it out",
    "deepspeed": "dpo-lab train --processes N --strategy fsdp divides the model; leave it out",
    "debug": NOT_BUILT + "; leave it out",
    "activation_offloading": NOT_BUILT + "; gradient_checkpointing also saves memory",
    "sync_ref_model": "KL and rewards are to a reference that stays as it is; leave it out, or "
    "train again from the result",
}
"""Refused when set, and why."""


def refuse(args: TrainingArguments) -> None:
    """Refuse what the lab would otherwise silently not do.

    Args:
        args: A `trl.DPOConfig` or its like.

    Raises:
        ValueError: Naming the field, its value, and what to do.
    """
    known = USED | HARMLESS.keys() | REFUSED.keys()
    for field in fields(args):
        value = getattr(args, field.name)
        given = f"{field.name}={shortened(repr(value), 60)}"
        if field.name in REFUSED and _is_set(field, value):
            raise ValueError(f"{given}: {REFUSED[field.name]}.")
        if field.name not in known and _is_set(field, value):
            raise ValueError(
                f"{given}: a setting that the lab does not know, of a newer TRL or transformers "
                "perhaps. Leave it out."
            )
    if args.disable_dropout is False:
        raise ValueError(
            "disable_dropout=False: the lab measures and trains the policy without dropout, as the "
            "default of TRL does. Leave it out."
        )


def _is_set(field: Any, value: Any) -> bool:
    """Whether a field has another value than its default."""
    if field.name == "accelerator_config":  # transformers makes an object of it
        return value is not None and value != type(value)()
    default = field.default if field.default is not MISSING else None
    return bool(value) and value != default
