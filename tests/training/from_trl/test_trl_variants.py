"""Arguments that change numbers, each given to TRL's trainer and to the lab's: the same logs."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trl_cases import TEMPLATE, rows, save_tiny_model, tokenizer_with

from dpo_lab import DPOTrainer

trl = pytest.importorskip("trl", minversion="1.16")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore:.*tokens|.*rows|.*pairs"),
]
CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""A new line after the end of a turn, as in ChatML."""
VARIANTS = {
    "answers cut": {"max_length": 26},
    "prompts too long": {"max_length": 22},
    "several losses": {
        "loss_type": ["sigmoid", "bco_pair", "sft"],
        "loss_weights": [0.8, 0.2, 1.0],
    },
    "ipo": {"loss_type": ["ipo"], "beta": 2.0},
    "smoothed labels": {"loss_type": ["robust"], "label_smoothing": 0.2},
    "weighted pairs": {"use_weighting": True, "f_divergence_type": "js_divergence"},
    "long answers": {"ld_alpha": 0.4},
    "in order": {
        "train_sampling_strategy": "sequential",
        "dataloader_drop_last": True,
        "optim": "rmsprop",
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 2,
    },
    "other seeds": {"data_seed": 5, "adam_beta2": 0.9, "max_grad_norm": 0.5, "max_steps": 3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, one_thread):
    return save_tiny_model(tmp_path_factory.mktemp("variants"))


def logs(kind, folder, output, settings, shape="explicit", template=TEMPLATE, adapted=False):
    """What a trainer logs of every step, and the token ids that its rows became."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapted:  # one that has been trained already, and is part of the reference
        torch.manual_seed(1)
        model = get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM"))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
    given = {"learning_rate": 3e-3, "num_train_epochs": 1, "beta": 0.3, "max_length": 128}
    given |= {"per_device_train_batch_size": 7, "logging_steps": 1, "save_strategy": "no"}
    given |= {"bf16": False, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    given |= {"gradient_checkpointing": False, **settings}
    quiet = {"kl_samples": 0, "sample_prompts": 0} if kind is DPOTrainer else {}
    trainer = kind(
        model=model,
        args=trl.DPOConfig(str(output), **given),
        train_dataset=Dataset.from_list(rows(24, shape)),
        processing_class=tokenizer_with(template),
        **quiet,
    )
    trainer.train()
    kept = ("loss", "grad_norm", "learning_rate", "rewards/", "logps/")
    return [
        {key: value for key, value in some.items() if key.startswith(kept)}
        for some in trainer.state.log_history
        if "loss" in some
    ]


def both(folder, tmp_path, settings, **more):
    theirs = logs(trl.DPOTrainer, folder, tmp_path / "trl", settings, **more)
    ours = logs(DPOTrainer, folder, tmp_path / "lab", settings, **more)
    assert len(ours) == len(theirs) >= 3
    return theirs, ours


@pytest.mark.parametrize("name", VARIANTS)
def test_the_same_arguments_give_the_same_numbers(name, folder, tmp_path):
    theirs, ours = both(folder, tmp_path, VARIANTS[name])
    for mine, other in zip(ours, theirs, strict=True):
        assert {key: mine[key] for key in other} == pytest.approx(other, abs=1e-4)
    assert ours[0]["loss"] != ours[-1]["loss"]


def test_a_trained_adapter_is_part_of_the_reference(folder, tmp_path):
    theirs, ours = both(folder, tmp_path, {}, adapted=True)
    assert ours[0]["rewards/margins"] == 0
    for mine, other in zip(ours, theirs, strict=True):
        assert {key: mine[key] for key in other} == pytest.approx(other, abs=1e-4)


def test_a_new_line_after_the_end_of_a_turn_is_scored_by_trl_alone(folder, tmp_path):
    """The one token by which conversations differ, as docs/from-trl.md says: not written to stop.

    At the reference the log-probabilities differ by the new line's, and the loss by nothing.
    """
    theirs, ours = both(folder, tmp_path, {}, shape="conversational", template=CHATML)
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], abs=1e-6)
    assert ours[0]["logps/chosen"] > theirs[0]["logps/chosen"] + 1
    assert 1e-4 < abs(ours[-1]["loss"] - theirs[-1]["loss"]) < 0.1
