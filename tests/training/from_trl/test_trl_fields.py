"""Every field of TRL's configuration is used, without effect, or refused: none is forgotten."""

from __future__ import annotations

import dataclasses

import pytest
from accelerate.utils import ParallelismConfig
from transformers.trainer_pt_utils import AcceleratorConfig

from dpo_lab import DPOConfig
from dpo_lab.training.trl_trainer.fields import HARMLESS, REFUSED, USED
from dpo_lab.training.trl_trainer.settings import settings_of

trl = pytest.importorskip("trl", minversion="1.16")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

SET = {
    "lr_scheduler_kwargs": {"num_cycles": 1},
    "optim_target_modules": ["q_proj"],
    "label_smoothing_factor": 0.1,
    "fp16": True,
    "bf16_full_eval": True,
    "fp16_full_eval": True,
    "torch_compile": True,
    "neftune_noise_alpha": 5.0,
    "restore_callback_states_from_checkpoint": True,
    "ignore_data_skip": True,
    "enable_jit_checkpoint": True,
    "full_determinism": True,
    "accelerator_config": AcceleratorConfig(split_batches=True),
    "parallelism_config": ParallelismConfig(),
    "fsdp": ["full_shard"],
    "deepspeed": {"zero_optimization": {"stage": 2}},
    "debug": ["underflow_overflow"],
    "activation_offloading": True,
    "sync_ref_model": True,
}
"""A value of each field that is refused, as it is after TRL has read it."""


@pytest.fixture(params=[DPOConfig, trl.DPOConfig], ids=["lab", "trl"])
def make(request, tmp_path):
    """Makes a configuration, of the lab's class or TRL's."""
    return lambda **given: request.param(str(tmp_path), **{"use_cpu": True, "bf16": False, **given})


def test_no_field_is_forgotten():
    names = {field.name for field in dataclasses.fields(trl.DPOConfig)}
    assert len(names) > 130
    assert names == USED | HARMLESS.keys() | REFUSED.keys()
    assert not (USED & HARMLESS.keys() or USED & REFUSED.keys() or HARMLESS.keys() & REFUSED.keys())
    assert SET.keys() == REFUSED.keys()


def test_the_labs_configuration_has_trls_fields_and_defaults():
    def defaults(kind):
        return {
            field.name: field.default_factory()
            if field.default is dataclasses.MISSING
            else field.default
            for field in dataclasses.fields(kind)
        }

    assert defaults(DPOConfig) == defaults(trl.DPOConfig)


def test_defaults_are_taken(make):
    settings = settings_of(make())
    assert settings["loss"] == "sigmoid" and settings["beta"] == 0.1
    assert settings["batch_pairs"] == 8 and settings["epochs"] == 3.0
    assert settings["max_length"] == settings["max_prompt_length"] == 1024
    assert settings["gradient_checkpointing"] is True and settings["precision"] == "float32"
    assert settings_of(make(bf16=None))["precision"] == "auto"
    assert settings_of(make(max_length=None))["max_length"] > 10**9


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named_with_a_reason(make, name):
    args = make()
    setattr(args, name, SET[name])
    with pytest.raises(ValueError, match=rf"^{name}=.*: .{{15,}}\.$"):
        settings_of(args)


def test_a_field_of_a_newer_trl_is_refused_if_it_is_set(tmp_path):
    @dataclasses.dataclass
    class Newer(trl.DPOConfig):
        polish: float = 0.0

    settings_of(Newer(str(tmp_path), use_cpu=True))
    with pytest.raises(ValueError, match=r"polish=0.5: a setting that the lab does not know"):
        settings_of(Newer(str(tmp_path), use_cpu=True, polish=0.5))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lr_scheduler_type": "polynomial"}, "lr_scheduler_type='polynomial': the lab has linear"),
        ({"optim": "adafactor"}, "optim='adafactor': the lab has adamw_torch"),
        ({"optim_args": "a=1"}, "optim_args='a=1': AdamW takes none"),
        (
            {"train_sampling_strategy": "group_by_length"},
            "train_sampling_strategy='group_by_length'",
        ),
        ({"truncation_mode": "keep_end"}, "truncation_mode='keep_end': it cuts the beginning"),
        ({"loss_type": ["sigmoyd"]}, "loss_type='sigmoyd': unknown"),
        ({"loss_weights": [-1.0]}, "loss_weights=.*: a weight is below 0"),
        ({"label_smoothing": 0.1}, "label_smoothing=0.1: TRL does not smooth .* 'sigmoid'"),
        (
            {"label_smoothing": 0.1, "loss_type": ["robust", "sigmoid"]},
            "label_smoothing=0.1: TRL does not smooth .* 'sigmoid'",
        ),
        ({"loss_type": ["exo_pair"]}, "label_smoothing=0: exo_pair needs more"),
        ({"disable_dropout": False}, "disable_dropout=False: the lab measures"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_value_that_the_lab_has_not_is_refused(make, given, words):
    with pytest.raises(ValueError, match=words):
        settings_of(make(**given))


@pytest.mark.parametrize(
    ("given", "loss", "options"),
    [
        ({"loss_type": ["ipo"]}, "ipo_norm", {}),  # TRL averages over tokens
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1, 0.2]}, "sigmoid + 0.2 sft", {}),
        (
            {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
            "0.8 sigmoid + 0.2 bco_pair + sft",
            {},
        ),
        ({"loss_type": ["sigmoid", "sft"]}, "sigmoid + sft", {}),
        (
            {"loss_type": ["robust"], "label_smoothing": 0.1},
            "robust",
            {"label_smoothing": 0.1},
        ),
        (
            {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3},
            "sigmoid",
            {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3},
        ),
        (
            {"loss_type": ["discopop"], "discopop_tau": 0.1},
            "discopop",
            {"discopop_tau": 0.1},
        ),
    ],
    ids=str,
)
def test_losses_are_those_that_trl_means(make, given, loss, options):
    settings = settings_of(make(**given))
    assert settings["loss"] == loss
    assert {name: settings[name] for name in options} == options


def test_another_configuration_is_refused():
    from transformers import TrainingArguments

    with pytest.raises(TypeError, match="a TrainingArguments is no configuration of DPO"):
        settings_of(TrainingArguments("out", use_cpu=True))
