"""Families of `transformers`, each as a tiny random model, against plain `transformers`.

The plain side is one sequence at a time, full logits, float64 log-softmax, an untouched model. The
project's side is what a run does: packed or padded batches, the tiled head, lean layers, AdamW.
"""

from dataclasses import dataclass, field

import pytest
import torch
from tiny import argmax_loop, shake
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from dpo_lab.models.draws import chooser
from dpo_lab.models.dropout import disable_dropout
from dpo_lab.models.loading import LanguageModel, add_lora
from dpo_lab.models.reference_cache import ReferenceCache
from dpo_lab.models.sampling import sample
from dpo_lab.models.scoring import LogpScorer, score_sequences
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.learner import Learner
from dpo_lab.training.setup import prepare

pytestmark = pytest.mark.slow

VOCABULARY = 64
# Every size that some family has; a family takes those that its configuration knows.
SMALL = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner"), 48),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 64),
    **{"num_key_value_heads": 2, "num_experts_per_tok": 2, "vocab_size": VOCABULARY},
    **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None},
}
LEAVE = object()
"""In place of a value: the family's own default."""


@dataclass(frozen=True)
class Family:
    """A family: its `model_type`, what it needs besides SMALL, and what is expected of it.

    Attributes:
        name: `model_type` of its configuration.
        options: Values of its configuration.
        refused: Words of the line that refuses it; none if it trains.
        label: What makes it different from another of that name.
    """

    name: str
    options: dict = field(default_factory=dict)
    refused: str | None = None
    label: str = ""

    def config(self):
        kind = CONFIG_MAPPING[self.name]
        default = kind()
        values = {name: value for name, value in SMALL.items() if hasattr(default, name)}
        values |= self.options
        return kind(**{name: value for name, value in values.items() if value is not LEAVE})

    def model(self) -> torch.nn.Module:
        """The same weights in every call, each moved off its tidy first value."""
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(self.config(), dtype=torch.float32)
        return shake(model.eval(), 0.1, 0)

    def __str__(self) -> str:
        return self.name + (f"-{self.label}" if self.label else "")


NOT_CAUSAL = "change by .* nats with later tokens.*Use a causal model"
LINEAR = {
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
    **{"linear_key_head_dim": 8, "linear_value_head_dim": 8},
}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
LONGROPE = {
    **{"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 20},
    **{"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]},
}
FAMILIES = [
    Family("afmoe"),
    Family("apertus"),
    Family("arcee"),
    Family("aria_text"),
    Family("axk2", {"num_key_value_heads": 4}),
    Family(
        "bailing_hybrid",
        {
            "num_key_value_heads": 4,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_head_dim": 8,
            "linear_num_heads": 4,
        },
    ),
    Family(
        "bamba",
        {
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
            "attn_layer_indices": [1],
            "mamba_chunk_size": 8,
        },
    ),
    Family("bart"),
    Family("beam"),
    Family("bert", refused=NOT_CAUSAL),
    Family("bert", {"is_decoder": True}, label="decoder"),
    Family("bert-generation", refused=NOT_CAUSAL),
    Family("bert-generation", {"is_decoder": True}, label="decoder"),
    Family("big_bird", refused=NOT_CAUSAL),
    Family("big_bird", {"is_decoder": True}, label="decoder"),
    Family("bigbird_pegasus"),
    Family("biogpt"),
    Family("bitnet"),
    Family("blenderbot"),
    Family("blenderbot-small"),
    Family("bloom"),
    Family("camembert", {"pad_token_id": 2, "is_decoder": True}),
    Family("codegen", {"rotary_dim": 4}),
    Family("cohere"),
    Family("cohere2"),
    Family("cohere2_moe"),
    Family("cpmant", refused=NOT_CAUSAL),
    Family("ctrl"),
    Family("cwm"),
    Family("data2vec-text", {"pad_token_id": 2, "is_decoder": True}),
    Family("deepseek_v2", {"num_key_value_heads": 4}),
    Family("deepseek_v3", {"num_key_value_heads": 4, "n_group": 2, "topk_group": 1}),
    Family("deepseek_v32", {"num_key_value_heads": 4, "n_group": 2, "topk_group": 1}),
    Family("deepseek_v4"),
    Family("diffllama"),
    Family("doge"),
    Family(
        "dots1", {"num_key_value_heads": 4, "n_group": 1, "topk_group": 1, "n_shared_experts": 1}
    ),
    Family("electra", refused=NOT_CAUSAL),
    Family("electra", {"is_decoder": True}, label="decoder"),
    Family("ernie", refused=NOT_CAUSAL),
    Family("ernie", {"is_decoder": True}, label="decoder"),
    Family("ernie4_5"),
    Family("ernie4_5_moe"),
    Family("exaone4"),
    Family("exaone_moe"),
    Family("falcon", {"head_dim": LEAVE}),
    Family(
        "falcon_h1",
        {
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_chunk_size": 8,
        },
    ),
    Family("falcon_mamba"),
    Family("flex_olmo"),
    Family("flint"),
    Family("gemma"),
    Family("gemma2"),
    Family("gemma3_text"),
    Family(
        "gemma3n_text",
        {
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention"],
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 64,
            "laurel_rank": 4,
            "activation_sparsity_pattern": [0.0, 0.0],
        },
    ),
    Family("glm"),
    Family("glm4"),
    Family("glm4_moe"),
    Family("glm4_moe_lite", {"num_key_value_heads": 4, "n_group": 1, "topk_group": 1}),
    Family("glm_moe_dsa", {"num_key_value_heads": 4, "n_group": 1, "topk_group": 1}),
    Family("gpt2"),
    Family("gpt_bigcode"),
    Family("gpt_neo", {"attention_types": [[["global", "local"], 1]], "window_size": 26}),
    Family("gpt_neox"),
    Family("gpt_neox_japanese"),
    Family("gpt_oss"),
    Family("gptj", {"rotary_dim": 4}),
    Family("granite"),
    Family("granite_swa"),
    Family("granitemoe"),
    Family("granitemoe_swa"),
    Family(
        "granitemoehybrid",
        {
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
            "layer_types": ["mamba", "attention"],
            "mamba_chunk_size": 8,
        },
    ),
    Family("granitemoeshared"),
    Family("helium"),
    Family("hrm_text"),
    Family("hunyuan_v1_dense"),
    Family("hunyuan_v1_moe"),
    Family("hy_v3"),
    Family("hy_v4"),
    Family("hyperclovax"),
    Family("inkling2_text"),
    Family("inkling_text"),
    Family("jais2"),
    Family("jamba", {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4}),
    Family("jetmoe"),
    Family("kolibri1"),
    Family("laguna"),
    Family("lfm2"),
    Family("lfm2_moe", {"layer_types": ["conv", "full_attention"]}),
    Family("lfm3", {"layer_types": ["conv", "full_attention"]}),
    Family("llama"),
    Family("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 20}, label="dynamic"),
    Family("llama4_text"),
    Family("longcat_flash", {"num_key_value_heads": 4}),
    Family("mamba"),
    Family(
        "mamba2", {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 8}
    ),
    Family("marian"),
    Family("mbart"),
    Family("megatron-bert", refused=NOT_CAUSAL),
    Family("megatron-bert", {"is_decoder": True}, label="decoder"),
    Family("mellum"),
    Family("mimo_v2_flash"),
    Family("minicpm3", {"num_key_value_heads": 4, "dim_model_base": 32}),
    Family("minimax"),
    Family("minimax_m2"),
    Family("minimax_m3_vl_text"),
    Family("ministral"),
    Family("ministral3"),
    Family("mistral"),
    Family("mistral", {"sliding_window": 4}, label="window"),
    Family("mistral", {"sliding_window": 28}, label="wide-window"),
    Family("mixtral"),
    Family("modernbert-decoder", {"pad_token_id": 2}),
    Family("moshi"),
    Family("mpt"),
    Family("mvp"),
    Family("nanochat"),
    Family("nemotron"),
    Family(
        "nemotron_h",
        {
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "ssm_state_size": 8,
            "n_groups": 1,
            "chunk_size": 8,
            "layers_block_type": ["mamba", "attention"],
        },
    ),
    Family("olmo"),
    Family("olmo2"),
    Family("olmo3"),
    Family("olmo_hybrid"),
    Family("olmoe"),
    Family("openai-gpt"),
    Family("opt"),
    Family("pegasus"),
    Family("persimmon"),
    Family("phi"),
    Family("phi3"),
    Family("phi3", {"rope_parameters": LONGROPE, "max_position_embeddings": 64}, label="longrope"),
    Family("phimoe"),
    Family("plbart"),
    Family("qwen2"),
    Family("qwen2_moe"),
    Family("qwen3"),
    Family("qwen3_5_moe_text", {"layer_types": ["linear_attention", "full_attention"], **LINEAR}),
    Family("qwen3_5_text", {"layer_types": ["linear_attention", "full_attention"], **LINEAR}),
    Family("qwen3_moe"),
    Family("qwen3_next", {"layer_types": ["linear_attention", "full_attention"], **LINEAR}),
    Family("recurrent_gemma", {"block_types": ["recurrent", "attention"]}),
    Family("rembert", refused=NOT_CAUSAL),
    Family("rembert", {"is_decoder": True}, label="decoder"),
    Family("roberta", {"pad_token_id": 2, "is_decoder": True}),
    Family("roberta-prelayernorm", {"pad_token_id": 2, "is_decoder": True}),
    Family("roformer", refused=NOT_CAUSAL),
    Family("roformer", {"is_decoder": True}, label="decoder"),
    Family("rwkv"),
    Family("seed_oss"),
    Family("smollm3"),
    Family("solar_open"),
    Family("stablelm"),
    Family("starcoder2"),
    Family("trocr"),
    Family("vaultgemma"),
    Family("whisper"),
    Family("xglm"),
    Family("xlm-roberta", {"pad_token_id": 2, "is_decoder": True}),
    Family("xlm-roberta-xl", {"pad_token_id": 2, "is_decoder": True}),
    Family("xlstm", {"v_head_dim": LEAVE, "num_heads": 2}),
    Family("youtu", {"num_key_value_heads": 4}),
    Family(
        "zamba",
        {
            "layers_block_type": ["hybrid", "hybrid"],
            "attention_hidden_size": 64,
            "attention_head_dim": 16,
            "num_key_value_heads": 4,
            "mamba_dt_rank": 4,
        },
    ),
    Family(
        "zamba2",
        {
            "layers_block_type": ["linear_attention", "hybrid"],
            "hybrid_layer_ids": [1],
            "attention_hidden_size": 64,
            "attention_head_dim": 16,
            "num_key_value_heads": 4,
            "mamba_d_state": 8,
            "mamba_headdim": 8,
            "chunk_size": 8,
            "adapter_rank": 4,
            "num_query_groups": 4,
        },
    ),
    Family(
        "zaya",
        {"layer_types": ["hybrid", "hybrid"], "num_experts_per_tok": 1, "router_hidden_size": 8},
    ),
]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word: `<bos>`, `<eos>`, `<pad>`, then w3 to w59."""
    words = ["<bos>", "<eos>", "<pad>", *(f"w{number}" for number in range(3, 60))]
    ids = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )


def words(count: int, seed: int) -> str:
    generator = torch.Generator().manual_seed(seed)
    return " ".join(f"w{number}" for number in torch.randint(3, 60, (count,), generator=generator))


# Ragged: prompts of 2 to 13 tokens, answers of 1 to 22 and an end token.
ROWS = [
    {
        "prompt": words(2 + 11 * number // 5, number),
        "chosen": " " + words(1 + (7 * number) % 19, 10 + number),
        "rejected": " " + words(22 - 4 * number, 20 + number),
    }
    for number in range(6)
]


def language_model(family: Family) -> LanguageModel:
    model = family.model()
    disable_dropout(model)  # as load_model does
    return LanguageModel(model, make_tokenizer(), str(family), "test")


def job_of(lm: LanguageModel, folder, **options):
    config = {"model": "test", "held_out": 0, "eval_every": 0, "batch_pairs": 6, "steps": 3}
    config |= {"beta": 0.1, "learning_rate": 3e-4, "schedule": "constant", "device": "cpu"}
    cache = ReferenceCache(folder / "reference.sqlite")
    return prepare(TrainConfig(**config | options), model=lm, data=ROWS, cache=cache)


def plain_logp(model: torch.nn.Module, prompt, response) -> torch.Tensor:
    """`log pi(y|x)`, nats, float64."""
    trunk = getattr(model, "model", None)
    if "dynamic" in str(getattr(model.config, "rope_parameters", "")):
        # It remembers the longest sequence that it has seen.
        trunk.rotary_emb = type(trunk.rotary_emb)(config=model.config)
    logits = model(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False).logits[0]
    picked = logits[len(prompt) - 1 : -1].double().log_softmax(-1)
    return picked.gather(1, torch.tensor(response)[:, None]).sum()


def pair_margin(model, pair) -> torch.Tensor:
    return plain_logp(model, pair.prompt, pair.chosen) - plain_logp(
        model, pair.prompt, pair.rejected
    )


def plain_steps(model, pairs, config, steps: int = 3):
    """Losses of DPO steps and the size of the gradients, by autograd and AdamW alone."""
    model.eval()
    with torch.no_grad():
        reference = [pair_margin(model, pair) for pair in pairs]
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=config.learning_rate, weight_decay=0)
    losses, smallest = [], {}
    for _ in range(steps):
        total = 0.0
        for pair, before in zip(pairs, reference, strict=True):
            moved = pair_margin(model, pair) - before
            loss = -torch.nn.functional.logsigmoid(config.beta * moved) / len(pairs)
            loss.backward()
            total += loss.item()
        losses.append(total)
        torch.nn.utils.clip_grad_norm_(weights.values(), config.max_grad_norm)
        for name, weight in weights.items():
            size = torch.zeros_like(weight) if weight.grad is None else weight.grad.abs()
            smallest[name] = torch.minimum(smallest.get(name, size), size)
        optimizer.step()
        optimizer.zero_grad()
    return losses, smallest


ODD_LAYERS = ("deepseek_v4", "falcon_h1", "llama4_text", "mamba", "mamba2", "nemotron_h", "phimoe")
"""Families with layers that take no adapter, or none of PEFT's: kernels, routers, groups."""


@pytest.mark.parametrize("name", ODD_LAYERS)
def test_a_default_adapter_leaves_out_what_takes_none(name, tmp_path):
    family = next(family for family in FAMILIES if family.name == name)
    job = job_of(language_model(family), tmp_path, lora_rank=2, learning_rate=1e-2)
    learner = Learner(job)
    losses = [learner.take_step().values["loss"] for _ in range(3)]
    assert losses[0] == pytest.approx(0.693147, abs=1e-5) and losses[2] < losses[0] - 1e-3


@pytest.mark.parametrize("name, target", [("mamba", "out_proj"), ("llama", "input_layernorm")])
def test_a_target_that_takes_no_adapter_is_refused_by_our_options_name(name, target):
    family = next(family for family in FAMILIES if family.name == name)
    with pytest.raises(ValueError, match="^lora_targets: PEFT puts no adapter.*Name other") as one:
        add_lora(language_model(family), 2, targets=(target,))
    assert "target_modules" not in str(one.value) and "\n" not in str(one.value)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.refused], ids=str)
def test_what_is_refused_says_why_in_one_line(family, tmp_path):
    with pytest.raises(ValueError, match=family.refused) as caught:
        job_of(language_model(family), tmp_path)
    assert "\n" not in str(caught.value)


GOOD = [family for family in FAMILIES if not family.refused]


@pytest.mark.parametrize("family", GOOD, ids=str)
def test_logps_are_plain_transformers(family, tmp_path):
    lm, plain = language_model(family), family.model()
    pairs = job_of(language_model(family), tmp_path).train.tokens.pairs
    sequences = [(pair.prompt, side) for pair in pairs for side in (pair.chosen, pair.rejected)]
    with torch.no_grad():
        expected = torch.stack([plain_logp(plain, *sequence) for sequence in sequences])
    found = score_sequences(LogpScorer.probed(lm), sequences)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("family", GOOD, ids=str)
def test_three_steps_are_plain_adamw(family, tmp_path, monkeypatch):
    """Losses and weights within 1e-5, with lean layers as a large model has them.

    AdamW divides a gradient by its size: one below a thousandth of the largest carries too much
    rounding for 1e-5, so such weights are compared by the losses that they give only.
    """
    monkeypatch.setattr("dpo_lab.training.step_gradient.is_small", lambda model: False)
    job, plain = job_of(language_model(family), tmp_path), family.model()
    learner = Learner(job)
    found = [learner.take_step().values["loss"] for _ in range(3)]
    expected, gradients = plain_steps(plain, job.train.tokens.pairs, job.config)
    assert found == pytest.approx(expected, abs=1e-5)
    assert expected[0] == pytest.approx(0.693147, abs=1e-5) and expected[2] < 0.69
    largest = max(gradient.max() for gradient in gradients.values())
    ours = dict(job.policy.model.named_parameters())
    for name, weight in plain.named_parameters():
        if name not in gradients:  # a buffer that is written as a weight
            assert torch.equal(ours[name], weight) and not ours[name].requires_grad, name
            continue
        counted = gradients[name] > 1e-3 * largest
        difference = (ours[name] - weight).detach().abs()[counted]
        assert not counted.any() or difference.max() <= 1e-5, name


@pytest.mark.parametrize("family", GOOD, ids=str)
def test_batches_of_answers_are_those_alone(family):
    """Greedy, prompts of five lengths in one call: the argmax of plain logits, no cache.

    Seeded, prompts of one length: draws of the plain softmax with the same random numbers.
    """
    lm, plain = language_model(family), family.model()
    prompts = [tuple(range(3 + at, 5 + at + 2 * at)) for at in range(5)]
    alone = [argmax_loop(plain, prompt, lm.encoder.end_ids, 6) for prompt in prompts]
    answers = sample(lm, prompts, max_new_tokens=6, temperature=0)
    assert [answer.ids for answer in answers] == alone
    prompts = [(3 + at, 4, 5 + 2 * at) for at in range(4)]
    drawn = sample(lm, prompts, max_new_tokens=4, seed=5)
    assert [answer.ids for answer in drawn] == draw_loop(plain, prompts, lm.encoder.end_ids, 4, 5)


@torch.no_grad()
def draw_loop(model, prompts, ends, limit: int, seed: int):
    """Sampling written out: each row alone through the model; the draws of test_draws.py."""
    rows = [list(prompt) for prompt in prompts]
    draw = chooser(seed, range(len(prompts)), limit, 1.0, torch.device("cpu"))
    for place in range(limit):
        inputs = [torch.tensor([row]) for row in rows]
        logits = [model(input_ids=one, use_cache=False).logits[0, -1].float() for one in inputs]
        for row, token in zip(rows, draw(torch.stack(logits), place).tolist(), strict=True):
            row.append(token)
    answers = [row[len(prompt) :] for prompt, row in zip(prompts, rows, strict=True)]
    cut = [next((at for at, token in enumerate(ids) if token in ends), limit) for ids in answers]
    return [tuple(ids[: at + 1]) for ids, at in zip(answers, cut, strict=True)]
