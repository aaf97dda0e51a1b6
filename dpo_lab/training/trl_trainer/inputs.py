"""Model, adapter, tokenizer and data as TRL's trainer takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)

from dpo_lab.data.pairs import PromptFormat
from dpo_lab.data.preferences import Preferences, preferences_from_rows
from dpo_lab.models.builtin import builtin_model
from dpo_lab.models.handed_over import as_language_model
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.weights import weights_fingerprint

MODEL_OPTIONS = (
    *("dtype", "torch_dtype", "attn_implementation", "revision", "trust_remote_code"),
    *("cache_dir", "local_files_only", "subfolder", "low_cpu_mem_usage", "use_safetensors"),
    *("device_map", "use_cache"),
)
"""Options of `from_pretrained` that change nothing but where weights come from, and their type."""


def load_policy(
    model: str | nn.Module,
    args: TrainingArguments | None,
    tokenizer: PreTrainedTokenizerBase | None,
    peft_config: Any = None,
    ref_model: nn.Module | None = None,
) -> LanguageModel:
    """The policy with its tokenizer, on the device of the arguments, with a new adapter if asked.

    Args:
        model: A name, or a loaded model, which is used in place.
        args: A `DPOConfig`; None for the lab's own settings.
        tokenizer: Its tokenizer, by default that of the same name.
        peft_config: Of an adapter to add.
        ref_model: A reference, which must equal the model before that.

    Raises:
        TypeError: If something else is given.
        ValueError: If the lab cannot train it so.
    """
    if tokenizer is not None and not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(
            f"processing_class: a {type(tokenizer).__name__} is no tokenizer. The lab trains on "
            "text alone; give the tokenizer of a language model."
        )
    given = (getattr(args, "model_init_kwargs", None) if args else None) or {}
    if isinstance(model, str):
        policy = _load(model, given, args, tokenizer)
    else:
        whole = model if tokenizer is None else (model, tokenizer)
        policy = as_language_model(whole)
        if given:
            raise ValueError(
                "model_init_kwargs: the model is loaded already, and they would be ignored. Give "
                "its name, or leave them out."
            )
    _check_quantised(policy.model)
    if args is not None:
        policy.model.to(args.device)
    _check_reference(policy, ref_model)
    if peft_config is not None:
        seed = 0 if args is None else args.seed
        policy.model = _adapted(policy.model, peft_config, seed)
    return policy


def _load(
    name: str,
    options: Mapping[str, Any],
    args: TrainingArguments | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> LanguageModel:
    options = dict(options)
    if "token" in options:
        raise ValueError(
            "model_init_kwargs: 'token' is a secret, and trackers would write it to their files. "
            "Log in with 'hf auth login', and leave it out."
        )
    if unknown := sorted(set(options) - set(MODEL_OPTIONS)):
        raise ValueError(
            f"model_init_kwargs: {unknown[0]!r} may change what the model computes. Load the model "
            "with it, and give the loaded model."
        )
    trusted = bool(args and getattr(args, "trust_remote_code", False))
    trusted = options.pop("trust_remote_code", trusted)
    revision = options.pop("revision", None)
    plain = not options
    lm_options = {"revision": revision, "trust_remote_code": trusted}
    if plain and tokenizer is None:
        device = "cpu" if args and args.use_cpu else "auto"
        return as_language_model(name, device=device, **lm_options)
    path, _ = builtin_model(name)
    options.pop("device_map", None)
    kind = options.pop("torch_dtype", None) or options.pop("dtype", None) or torch.float32
    loaded = AutoModelForCausalLM.from_pretrained(path, dtype=kind, **lm_options, **options)
    return as_language_model(loaded if tokenizer is None else (loaded, tokenizer))


def _check_quantised(model: nn.Module) -> None:
    if getattr(model, "is_quantized", False) or getattr(model, "quantization_method", None):
        raise ValueError(
            "model: its weights are quantised, and the trainer does not train those. Load it in "
            "bfloat16 or float32."
        )


def _adapted(model: nn.Module, peft_config: Any, seed: int) -> nn.Module:
    """The model with a new adapter, whose first weights are those that TRL draws."""
    from peft import LoraConfig, PeftModel, get_peft_model

    if not isinstance(peft_config, LoraConfig):
        raise TypeError(
            f"peft_config: a {type(peft_config).__name__} is no peft.LoraConfig, and with another "
            "adapter the reference may not be the model without it. Give a LoraConfig."
        )
    if isinstance(model, PeftModel):
        raise ValueError(
            "peft_config: the model has an adapter already. Merge that one first "
            "(merge_and_unload), or leave peft_config out to train it."
        )
    set_seed(seed)
    return get_peft_model(model, peft_config)


def _check_reference(policy: LanguageModel, ref_model: nn.Module | None) -> None:
    """Refuse a reference that is not the policy as it is."""
    if ref_model is None:
        return
    if ref_model is policy.model or ref_model is policy.base:
        raise ValueError(
            "ref_model: it is the model that is trained. Leave it out: the reference is the model "
            "as it is now."
        )
    if policy.lora:
        raise ValueError(
            "ref_model: the model has an adapter, and the reference is the model with it as it is "
            "now. Leave ref_model out."
        )
    if weights_fingerprint(ref_model) != weights_fingerprint(policy.model):
        raise ValueError(
            "ref_model: its weights differ from the model's. The lab's reference is the model as "
            "it is when training begins, so that rewards start at 0 and KL at 0. Leave ref_model "
            "out, or begin with its weights."
        )


def pairs_of(rows: Any, name: str) -> Preferences:
    """The pairs of a `train_dataset` or `eval_dataset`.

    Args:
        rows: A `datasets.Dataset`, rows, or `Preferences`.
        name: What it is called in messages.

    Raises:
        TypeError: If it is something else.
        ValueError: If its rows are none of text.
    """
    if isinstance(rows, Preferences):
        return rows
    if isinstance(rows, IterableDataset):
        raise TypeError(
            f"{name}: an IterableDataset has no length, and the lab reads all rows before it "
            "trains. Give a Dataset, such as Dataset.from_list(list(stream.take(10_000)))."
        )
    if isinstance(rows, Mapping):
        raise TypeError(
            f"{name}: several data sets ({', '.join(map(str, rows))}). Give one of them; the "
            "others can be measured with evaluate(dataset, metric_key_prefix=...)."
        )
    if not isinstance(rows, Dataset | Iterable) or isinstance(rows, str):
        raise TypeError(f"{name}: a {type(rows).__name__} is no data set. Give a datasets.Dataset.")
    columns = set(getattr(rows, "column_names", None) or ())
    for column, why in (
        ("image", "the lab trains on text alone"),
        ("images", "the lab trains on text alone"),
        ("chosen_ids", "the lab makes token ids of the text by itself"),
        ("chat_template_kwargs", "the lab gives a chat template no options of a row"),
    ):
        if column in columns:
            raise ValueError(f"{name}: column {column!r}, but {why}. Remove it.")
    return preferences_from_rows(rows, name=name)


def prompt_format(pairs: Preferences) -> PromptFormat:
    """Text as it is, and conversations by the chat template, as TRL has it.

    Raises:
        ValueError: If both kinds are mixed.
    """
    plain = {isinstance(pair.prompt, str) for pair in pairs}
    if len(plain) > 1:
        raise ValueError(
            f"{pairs.report.source}: some rows are text and some are conversations, which TRL does "
            "not mix. Make all of them one or the other."
        )
    return "plain" if plain == {True} else "auto"
