"""A model that the caller made: its dropout, its frozen layers."""

import pytest
import torch
import transformers
from datasets import Dataset
from tiny import GROUPED, SIZE, make_tokenizer, shake

from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.reference_cache import ReferenceCache
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.loop import train
from dpo_lab.training.setup import prepare

ROWS = [
    {"prompt": f"where is {word}", "chosen": f" {word} is there", "rejected": " no" * (at + 1)}
    for at, word in enumerate(["the answer", "it", "there", "yes"])
]
# Dropout in modules; in numbers that layers keep; in the configuration, read in every pass.
WITH_DROPOUT = {
    "GPT2LMHead": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "OPTForCausalLM": SIZE | {"ffn_dim": 48, "word_embed_proj_dim": 32, "layerdrop": 0.5},
    "FalconForCausalLM": SIZE | {"attention_dropout": 0.1, "hidden_dropout": 0.1},
    "PersimmonForCausalLM": SIZE | {"intermediate_size": 48, "attention_dropout": 0.1},
    "GPTNeoForCausalLM": {"hidden_size": 32, "num_heads": 4, "num_layers": 2}
    | {"attention_types": [[["global", "local"], 1]], "attention_dropout": 0.1},
    "LlamaForCausalLM": GROUPED,
}


def handed_over(name: str, dropout: bool = True) -> LanguageModel:
    """In training mode, as a training script leaves it."""
    family = name.removesuffix("ForCausalLM").removesuffix("LMHead")
    options = dict(WITH_DROPOUT[name])
    if family == "GPT2":
        options |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.1)
    if not dropout:
        options |= {key: 0.0 for key in options if "drop" in key}
        options |= {"dropout": 0.0} if family == "OPT" else {}
    config = getattr(transformers, f"{family}Config")(
        vocab_size=320, pad_token_id=None, bos_token_id=0, eos_token_id=1, **options
    )
    torch.manual_seed(0)
    model = getattr(transformers, name if family != "GPT2" else "GPT2LMHeadModel")(config)
    return LanguageModel(shake(model, 0.1, 0).train(), make_tokenizer(), name, "test")


def ready(model: LanguageModel, folder, **options):
    config = {"model": "test", "held_out": 0, "eval_every": 0, "batch_pairs": 4, "steps": 3}
    config |= {"learning_rate": 1e-2, "schedule": "constant", "device": "cpu"}
    cache = ReferenceCache(folder / "reference.sqlite")
    return prepare(TrainConfig(**config | options), model=model, data=ROWS, cache=cache)


def run(model: LanguageModel, folder, **options):
    job = ready(model, folder, **options)
    return job, [record.values["loss"] for record in train(job)]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_dropout_is_off_wherever_a_model_keeps_it(name, checkpointing, tmp_path):
    """The policy is the reference at the start, and trains as the model made without dropout."""
    job, losses = run(handed_over(name), tmp_path, gradient_checkpointing=checkpointing)
    _, expected = run(handed_over(name, dropout=False), tmp_path)
    assert losses[0] == pytest.approx(0.693147, abs=1e-5)
    assert losses == pytest.approx(expected, abs=1e-5) and losses[2] < losses[0] - 0.01
    assert job.scorer.head is not None


def test_checkpointing_computes_each_layer_again(tmp_path):
    lm, calls = handed_over("LlamaForCausalLM"), []
    job = ready(lm, tmp_path, gradient_checkpointing=True)
    lm.model.model.layers[0].mlp.register_forward_pre_hook(lambda *at: calls.append(at))
    batch = job.scorer.batch([(job.train.tokens[0].prompt, job.train.tokens[0].chosen)])
    job.scorer.logps(batch).sum().backward()
    assert len(calls) == 2


def test_frozen_layers_stay_frozen(tmp_path, caplog):
    lm = handed_over("LlamaForCausalLM")
    frozen = [*lm.model.model.embed_tokens.parameters(), *lm.model.model.layers[0].parameters()]
    for weight in frozen:
        weight.requires_grad_(False)
    before = {name: weight.clone() for name, weight in lm.model.named_parameters()}
    run(lm, tmp_path)
    for name, weight in lm.model.named_parameters():
        assert torch.equal(weight, before[name]) != weight.requires_grad, name
    line = f"{len(frozen)} of its {len(before)} weights have no requires_grad"
    assert line in caplog.text


def test_all_frozen_is_refused_unless_an_adapter_is_trained(tmp_path):
    lm = handed_over("LlamaForCausalLM")
    lm.model.requires_grad_(False)
    with pytest.raises(ValueError, match="none of its 21 weights.*nothing.*or give lora_rank"):
        run(lm, tmp_path)
    _, losses = run(lm, tmp_path, lora_rank=4)
    assert losses[2] < losses[0]


def dropouts(model: torch.nn.Module) -> list[float]:
    """Of all modules, and of the numbers that modules keep."""
    found = []
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            found.append(module.p)
        found += [v for k, v in vars(module).items() if "drop" in k and isinstance(v, float)]
    return found


@pytest.mark.parametrize("name", ["GPT2LMHead", "FalconForCausalLM", "OPTForCausalLM"])
def test_a_plain_model_and_a_dataset_are_trained_and_dropout_is_there_again(name, tmp_path):
    """`(model, tokenizer)` and a `Dataset`; the losses are those of the lab's own forms."""
    lm = handed_over(name)
    before = dropouts(lm.model)
    assert any(before)
    config = {"model": "test", "held_out": 0, "eval_every": 0, "batch_pairs": 4, "steps": 3}
    config |= {"learning_rate": 1e-2, "schedule": "constant", "device": "cpu"}
    cache = ReferenceCache(tmp_path / "reference.sqlite")
    given = (lm.model, lm.tokenizer)
    job = prepare(TrainConfig(**config), model=given, data=Dataset.from_list(ROWS), cache=cache)
    assert job.policy.model is lm.model and not any(dropouts(lm.model))
    losses = [record.values["loss"] for record in train(job)]
    _, expected = run(handed_over(name, dropout=False), tmp_path)
    assert losses == pytest.approx(expected, abs=1e-5)
    assert dropouts(lm.model) == before and not lm.model.training


def test_an_interrupted_run_gives_dropout_back_too(tmp_path):
    lm = handed_over("GPT2LMHead")
    dropout = next(m for m in lm.model.modules() if isinstance(m, torch.nn.Dropout))
    config = TrainConfig(model="test", held_out=0, eval_every=0, batch_pairs=4, steps=3)
    cache = ReferenceCache(tmp_path / "reference.sqlite")
    running = train(prepare(config, model=lm, data=ROWS, cache=cache))
    next(running)
    assert dropout.p == 0
    running.close()
    assert dropout.p == 0.1
