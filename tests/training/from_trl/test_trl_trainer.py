"""What the trainer does by itself: resuming, obeying callbacks, folders, refusals."""

from __future__ import annotations

import json
import math

import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from peft import IA3Config, LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    EarlyStoppingCallback,
    TrainerCallback,
)
from trl_cases import rows, save_tiny_model, tokenizer_with

from dpo_lab import DPOConfig, DPOTrainer, Run, TrainConfig
from dpo_lab.models.weights import weights_fingerprint

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
FEW = {"kl_samples": 4, "sample_prompts": 1, "max_new_tokens": 4}
TRAIN, HELD_OUT = rows(40)[8:], rows(8)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, one_thread):
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def make(tiny, tmp_path):
    """Makes a trainer on 32 pairs, 4 steps an epoch, that writes to `out`."""

    def trainer(callbacks=(), kind=DPOTrainer, args=None, **given):
        mine = {name: given.pop(name) for name in [*FEW, *INPUTS] if name in given}
        settings = {"learning_rate": 1e-3, "num_train_epochs": 2, "max_length": 128, "bf16": False}
        settings |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1}
        settings |= {"gradient_checkpointing": False, "save_strategy": "no"}
        inputs = {"model": tiny, "train_dataset": Dataset.from_list(TRAIN)}
        return kind(
            args=args or DPOConfig(str(tmp_path / "out"), **{**settings, **given}),
            callbacks=list(callbacks),
            **{**inputs, **FEW, **mine},
        )

    return trainer


INPUTS = (
    *("model", "ref_model", "train_dataset", "eval_dataset", "processing_class", "peft_config"),
    *("data_collator", "compute_metrics", "optimizers", "quantization_config", "output_dir"),
)


class Stop(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def numbers(trainer) -> list[dict]:
    clocks = ("runtime", "per_second", "memory_gb", "train_loss")
    return [
        {key: value for key, value in logs.items() if not key.endswith(clocks)}
        for logs in trainer.state.log_history
        if "train_loss" not in logs
    ]


def test_a_stopped_run_goes_on_as_if_it_had_not_been(make, tmp_path):
    """Losses, history and weights of a run stopped after step 5 and resumed are the whole run's."""
    settings = {"lr_scheduler_type": "cosine", "warmup_steps": 2, "weight_decay": 0.1}
    whole = make(**settings)
    whole.args.output_dir = str(tmp_path / "whole")
    assert whole.train().global_step == 8
    first = make([Stop(5)], **settings)
    assert first.train().global_step == 5
    second = make(**settings)
    assert second.train(resume_from_checkpoint=True).global_step == 8
    assert second.run.path == first.run.path == tmp_path / "out" / "run"
    assert numbers(second) == numbers(whole)
    assert weights_fingerprint(second.model) == weights_fingerprint(whole.model)
    records = Run(tmp_path / "out" / "run").records()
    assert [record.step for record in records] == list(range(1, 9))


def test_an_earlier_checkpoint_can_be_gone_back_to(make, tmp_path):
    first = make(save_strategy="steps", save_steps=2)
    first.train()
    folders = sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*"))
    assert folders == [f"checkpoint-{step}" for step in (2, 4, 6, 8)]
    again = make(save_strategy="steps", save_steps=2)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert numbers(again) == numbers(first)
    assert weights_fingerprint(again.model) == weights_fingerprint(first.model)


def test_a_second_run_in_a_folder_leaves_the_first(make, tmp_path):
    make(max_steps=1).train()
    kept = (tmp_path / "out" / "run" / "metrics.jsonl").read_bytes()
    second = make(max_steps=2)
    second.train()
    assert second.run.path.name == "run-2"
    assert (tmp_path / "out" / "run" / "metrics.jsonl").read_bytes() == kept
    with pytest.raises(RuntimeError, match="trained already"):
        second.train()


@pytest.mark.parametrize(
    ("asked", "words"),
    [(True, "holds no run"), ("elsewhere/checkpoint-3", "holds no run")],
)
def test_nothing_to_resume_is_said(make, asked, words):
    with pytest.raises(ValueError, match=words):
        make().train(resume_from_checkpoint=asked)


def test_a_folder_without_checkpoint_is_no_checkpoint(make, tmp_path):
    make(max_steps=1).train()
    with pytest.raises(ValueError, match="no checkpoint of the lab"):
        make(max_steps=1).train(resume_from_checkpoint=tmp_path / "out")


def test_other_settings_do_not_resume(make):
    make([Stop(1)]).train()
    with pytest.raises(ValueError, match="was begun with weight_decay=0.0, not 0.2"):
        make(weight_decay=0.2).train(resume_from_checkpoint=True)


def test_a_callback_asks_for_evaluation_and_checkpoint(make, tmp_path):
    class Ask(TrainerCallback):
        heard = []

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                control.should_evaluate = control.should_save = True

        def on_evaluate(self, args, state, control, metrics, **kwargs):
            self.heard.append((state.global_step, metrics["eval_pairs"], "eval_kl/k1" in metrics))

    make([Ask], eval_dataset=HELD_OUT, eval_strategy="steps", eval_steps=100).train()
    assert Ask.heard == [(3, 8, True), (8, 8, True)]
    assert (tmp_path / "out" / "checkpoint-3" / "model.safetensors").exists()
    answers = Run(tmp_path / "out" / "run").samples()
    assert [sample.step for sample in answers] == [3, 8]


def test_strategies_by_epoch(make, tmp_path):
    epoch = dict.fromkeys(("eval_strategy", "save_strategy", "logging_strategy"), "epoch")
    trainer = make(eval_dataset=HELD_OUT, **epoch)
    trainer.train()
    steps = {key: [] for key in ("loss", "eval_loss")}
    for logs in trainer.state.log_history:
        for key in steps.keys() & logs.keys():
            steps[key].append((logs["step"], logs["epoch"]))
    assert steps == {"loss": [(4, 1.0), (8, 2.0)], "eval_loss": [(4, 1.0), (8, 2.0)]}
    kept = sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*"))
    assert kept == ["checkpoint-4", "checkpoint-8"]


def test_a_window_is_averaged(make):
    """`logging_steps=4` logs the mean of four losses, as transformers does, and the last norm."""
    each, four = make(), make(logging_steps=4)
    for trainer in (each, four):
        trainer.train()
    losses = [logs for logs in each.state.log_history if "loss" in logs]
    logged = [logs for logs in four.state.log_history if "loss" in logs]
    assert [logs["step"] for logs in logged] == [4, 8]
    for logs, part in zip(logged, (losses[:4], losses[4:]), strict=True):
        assert logs["loss"] == pytest.approx(sum(one["loss"] for one in part) / 4)
        assert logs["grad_norm"] == part[-1]["grad_norm"]


def test_early_stopping_and_the_best_model(make, tmp_path):
    """With labels turned around every step is worse: the first one's weights come back."""
    """On pairs with labels turned around every step is worse: the first's weights come back."""
    turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in HELD_OUT]
    trainer = make(
        [EarlyStoppingCallback(early_stopping_patience=2)],
        eval_dataset=turned,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
        learning_rate=0.01,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        kl_samples=0,
        sample_prompts=0,
    )
    trainer.train()
    losses = {
        logs["step"]: logs["eval_loss"] for logs in trainer.state.log_history if "eval_loss" in logs
    }
    best = min(losses, key=losses.get)
    assert trainer.state.best_global_step == best == 1 and max(losses) == 3
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[best], rel=1e-5)
    kept = sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*"))
    assert kept == sorted({f"checkpoint-{best}", f"checkpoint-{max(losses)}"})


def test_without_held_out_pairs_kl_is_of_training_prompts(make):
    trainer = make()
    trainer.train()
    kl = [logs for logs in trainer.state.log_history if "kl/per_token" in logs]
    assert [logs["step"] for logs in kl] == [2, 4, 6, 8]
    assert not any(key.startswith("eval_") for logs in kl for key in logs)
    assert kl[-1]["kl/per_token"] > kl[0]["kl/per_token"] > 0
    assert trainer.run.environment["prompt_kind"] == "training prompt"
    quiet = make(kl_samples=0, sample_prompts=0)
    quiet.train()
    assert not any("kl/n" in logs for logs in quiet.state.log_history)


def test_evaluate_before_training_is_at_the_reference(make):
    trainer = make(eval_dataset=HELD_OUT)
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics["eval_kl/k1"] == pytest.approx(0, abs=1e-4)
    trainer.train()
    before, after = metrics, trainer.evaluate()
    assert after["eval_kl/per_token"] > 0.001 and after["eval_loss"] != before["eval_loss"]
    other = trainer.evaluate(Dataset.from_list(TRAIN[:6]), metric_key_prefix="test")
    assert other["test_pairs"] == 6 and other["test_rewards/accuracies"] > 0.5
    with pytest.raises(ValueError, match="no pairs to evaluate on"):
        make().evaluate()


def test_a_config_of_the_labs_own(make, tmp_path):
    config = TrainConfig(learning_rate=1e-3, steps=4, batch_pairs=8, beta=0.3, eval_every=2)
    trainer = make(args=config, output_dir=str(tmp_path / "own"))
    trainer.train()
    measured = [logs["step"] for logs in trainer.state.log_history if "eval_kl/k1" in logs]
    assert measured == [0, 2, 4]
    assert trainer.job.config.beta == 0.3 and Run(tmp_path / "own" / "run").finished


@pytest.mark.parametrize("adapter", [None, LoraConfig(r=2, task_type="CAUSAL_LM")], ids=str)
def test_a_saved_model_is_the_trained_one(make, tiny, tmp_path, adapter):
    trainer = make(peft_config=adapter, learning_rate=1e-2)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    ids = tokenizer("where is the answer", return_tensors="pt").input_ids
    begun = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    with torch.no_grad():
        ours, theirs = trainer.model(input_ids=ids).logits, loaded(input_ids=ids).logits
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
        assert (theirs - begun(input_ids=ids).logits).abs().max() > 0.01


def test_the_scoring_of_the_reference_shows_a_bar(make, capsys, monkeypatch):
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", True)
    make(max_steps=4, disable_tqdm=False)
    assert "reference: 100%" in capsys.readouterr().err
    make(max_steps=4)
    assert "reference" not in capsys.readouterr().err


def test_the_arguments_are_kept_with_the_run(make, tmp_path):
    make(max_steps=1, adam_beta2=0.95).train()
    kept = json.loads((tmp_path / "out" / "run" / "arguments.json").read_text())
    assert kept["adam_beta2"] == 0.95 and kept["max_steps"] == 1


def test_a_secret_is_in_no_file(make, tmp_path):
    secret = "hf_" + "s3cr3t" * 6
    make(max_steps=1, hub_token=secret, report_to="tensorboard", save_strategy="steps").train()
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any("tfevents" in path.name for path in files)
    assert not [path for path in files if secret.encode() in path.read_bytes()]


def test_a_push_uploads_what_loads(make, tmp_path, monkeypatch):
    """The hub's two calls are caught; the folder between them is a whole model with its card."""
    from huggingface_hub import HfApi

    seen = {}

    def create_repo(self, name, *, private, exist_ok):
        seen["repository"] = (name, private, self.token)
        return type("Url", (), {"repo_id": f"me/{name}"})

    def upload_folder(self, *, repo_id, folder_path, commit_message, revision):
        seen["to"], seen["message"] = repo_id, commit_message
        seen["model"] = AutoModelForCausalLM.from_pretrained(folder_path)
        seen["card"] = (folder_path / "README.md").read_text()

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    trainer = make(max_steps=2, hub_model_id="mine", hub_private_repo=True, hub_token="hf_x")
    trainer.train()
    assert not seen
    trainer.push_to_hub(commit_message="Done", dataset_name="pairs", tags=["test"])
    assert seen["repository"] == ("mine", True, "hf_x")
    assert (seen["to"], seen["message"]) == ("me/mine", "Done")
    assert weights_fingerprint(seen["model"]) == weights_fingerprint(trainer.model)
    assert "beta 0.1, 2 steps of 8 pairs" in seen["card"] and "datasets: pairs" in seen["card"]


class Inside(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """Would be called inside a step."""


class Leave(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_epoch_stop = True


REFUSED_INPUTS = {
    "no data": (ValueError, {"train_dataset": None}, "train_dataset: none is given"),
    "a stream": (
        TypeError,
        {"train_dataset": IterableDataset.from_generator(lambda: iter(TRAIN))},
        "train_dataset: an IterableDataset has no length",
    ),
    "several": (
        TypeError,
        {"eval_dataset": DatasetDict(a=Dataset.from_list(TRAIN), b=Dataset.from_list(TRAIN))},
        r"eval_dataset: several data sets \(a, b\)",
    ),
    "no data set": (TypeError, {"train_dataset": 3}, "train_dataset: a int is no data set"),
    "images": (
        ValueError,
        {"train_dataset": Dataset.from_list([{**row, "images": "x"} for row in TRAIN])},
        "column 'images', but the lab trains on text alone",
    ),
    "mixed": (
        ValueError,
        {"train_dataset": TRAIN[:4] + rows(4, "conversational")},
        "some rows are text and some are conversations",
    ),
    "collator": (ValueError, {"data_collator": print}, "data_collator: the lab lays out"),
    "metrics": (
        ValueError,
        {"compute_metrics": print},
        "compute_metrics: the lab builds no logits",
    ),
    "optimisers": (ValueError, {"optimizers": (print, None)}, "optimizers: the lab builds"),
    "quantised": (ValueError, {"quantization_config": {}}, "quantization_config: the trainer does"),
    "adapter": (TypeError, {"peft_config": IA3Config()}, "a IA3Config is no peft.LoraConfig"),
    "processor": (
        TypeError,
        {"processing_class": "gpt2"},
        "processing_class: a str is no tokenizer",
    ),
    "evaluation": (ValueError, {"eval_strategy": "steps"}, "there is no eval_dataset"),
    "inside": (ValueError, {"callbacks": [Inside]}, "Inside.on_pre_optimizer_step would be called"),
    "callback": (TypeError, {"callbacks": [print]}, "is no transformers.TrainerCallback"),
    "arguments": (TypeError, {"args": {"beta": 1}}, "args: a dict is no configuration of DPO"),
    "options": (
        ValueError,
        {"model_init_kwargs": {"rope_scaling": {}}},
        "'rope_scaling' may change what the model computes",
    ),
    "token": (ValueError, {"model_init_kwargs": {"token": "x"}}, "'token' is a secret"),
    "folder": (ValueError, {"output_dir": "elsewhere"}, "output_dir, report_to: args has its own"),
}


@pytest.mark.parametrize("case", REFUSED_INPUTS)
def test_what_cannot_be_taken_is_refused_in_words(make, case):
    kind, given, words = REFUSED_INPUTS[case]
    with pytest.raises(kind, match=words):
        make(**given)


def test_leaving_an_epoch_is_refused(make):
    with pytest.raises(NotImplementedError, match="control.should_epoch_stop"):
        make([Leave]).train()


def test_a_method_that_nothing_would_call_is_refused():
    with pytest.raises(TypeError, match="Mine.compute_loss: nothing calls it here"):

        class Mine(DPOTrainer):
            def compute_loss(self, *arguments):
                """Would be ignored."""


def test_the_reference_is_the_model_or_its_equal(make, tiny):
    model, same, other = (
        AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32) for _ in range(3)
    )
    tokenizer = tokenizer_with()
    make(model=model, ref_model=same, processing_class=tokenizer)
    make(model=tiny, ref_model=same, peft_config=LoraConfig(r=2, task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match="it is the model that is trained"):
        make(model=model, ref_model=model, processing_class=tokenizer)
    with torch.no_grad():
        other.lm_head.weight.mul_(1.01)
    with pytest.raises(ValueError, match="its weights differ from the model's"):
        make(model=model, ref_model=other, processing_class=tokenizer)


def test_an_adapter_on_an_adapter_is_refused(make, tiny):
    from peft import get_peft_model

    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM"))
    make(model=adapted).train()  # trains that adapter
    with pytest.raises(ValueError, match="ref_model: the model has an adapter"):
        make(model=adapted, ref_model=AutoModelForCausalLM.from_pretrained(tiny))
    with pytest.raises(ValueError, match="peft_config: the model has an adapter already"):
        make(model=adapted, peft_config=LoraConfig(r=2, task_type="CAUSAL_LM"))
