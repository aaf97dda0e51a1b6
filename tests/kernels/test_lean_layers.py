"""Lean layers: the same values and gradients as autograd's, in less memory, and gone afterwards."""

import copy
from contextlib import nullcontext

import pytest
import torch
from tiny import FAMILIES, branching_sequences, in_float64, make_language_model, make_tokenizer
from torch.autograd.graph import saved_tensors_hooks
from transformers import LlamaConfig, LlamaForCausalLM

from dpo_lab.kernels.lean_layers import LeanLayers, _RMSNorm, _SiluTimes
from dpo_lab.models.loading import LanguageModel, add_lora
from dpo_lab.models.scoring import LogpScorer


def gradients(lm, sequences, lean: bool, precision="float32") -> dict[str, torch.Tensor]:
    """Of a weighted sum of log-probabilities, over three micro-batches."""
    scorer, layers = LogpScorer.probed(lm, precision), LeanLayers(lm.model)
    upstream = torch.linspace(-1, 2, len(sequences), dtype=lm.base.dtype)
    lm.model.zero_grad()
    for part in range(3):
        picked = sequences[part::3]
        if lean:
            with layers():
                (scorer.logps(scorer.batch(picked)) @ upstream[part::3]).backward()
        else:
            (scorer.logps(scorer.batch(picked)) @ upstream[part::3]).backward()
    return {n: p.grad.clone() for n, p in lm.model.named_parameters() if p.grad is not None}


def assert_equal(found, expected, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    largest = max(gradient.norm() for gradient in expected.values())
    for name, gradient in expected.items():
        # A key's bias has none: what is there is rounding, of the size of the other gradients.
        scale = torch.maximum(gradient.norm(), 1e-4 * largest)
        assert (found[name] - gradient).norm() < tolerance * scale, name


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "Cohere"])
def test_gradients_are_autograds_in_float64(family):
    """Tied embeddings, biases, heads, untouched layers: all weights of all families."""
    lm, sequences = make_language_model(family), branching_sequences()
    in_float64(lm.model)
    expected = gradients(lm, sequences, lean=False)
    assert_equal(gradients(lm, sequences, lean=True), expected, 1e-9)


@pytest.mark.parametrize("rank", [None, 4], ids=["full", "lora"])
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "Mistral"])
def test_norms_and_adapters_too_in_float32(family, rank):
    lm, sequences = make_language_model(family), branching_sequences()
    if rank:
        lm = add_lora(lm, rank)
        with torch.no_grad():  # an adapter begins with zeros, through which nothing flows back
            for name, weight in lm.model.named_parameters():
                if "lora_B" in name:
                    weight.copy_(torch.linspace(-0.1, 0.1, weight.numel()).view_as(weight))
    expected = gradients(lm, sequences, lean=False)
    assert_equal(gradients(lm, sequences, lean=True), expected, 1e-4)


@pytest.mark.parametrize("rank", [None, 4], ids=["full", "lora"])
def test_under_bfloat16_they_are_as_near_to_float32_as_autograds(rank):
    """Rounding moves both: neither may be farther from the float32 gradient than the other."""
    lm, sequences = make_language_model("Llama"), branching_sequences()
    if rank:
        lm = add_lora(lm, rank)
        with torch.no_grad():  # as above
            for name, weight in lm.model.named_parameters():
                if "lora_B" in name:
                    weight.copy_(torch.linspace(-0.1, 0.1, weight.numel()).view_as(weight))
    exact = gradients(lm, sequences, lean=False)
    plain = gradients(lm, sequences, lean=False, precision="bfloat16")
    lean = gradients(lm, sequences, lean=True, precision="bfloat16")
    assert lean.keys() == plain.keys() == exact.keys()
    assert {gradient.dtype for gradient in lean.values()} == {torch.float32}

    def error(found) -> float:
        total = sum((found[name] - exact[name]).square().sum() for name in exact)
        return (total / sum(gradient.square().sum() for gradient in exact.values())).sqrt().item()

    assert 1e-4 < error(plain) < 0.02, "it computes in bfloat16"
    assert error(lean) == pytest.approx(error(plain), rel=0.3)


def test_hand_written_backward_passes_by_finite_differences():
    generator = torch.Generator().manual_seed(0)
    shape = {"dtype": torch.float64, "generator": generator}
    states, weight = torch.randn(2, 3, 5, **shape), torch.randn(5, **shape)
    leaves = [leaf.requires_grad_() for leaf in (states, weight)]
    assert torch.autograd.gradcheck(lambda x, w: _RMSNorm.apply(x, w, 1e-5), leaves)
    pair = [torch.randn(2, 3, 5, **shape).requires_grad_() for _ in range(2)]
    assert torch.autograd.gradcheck(_SiluTimes.apply, pair)


def replaced(layers: LeanLayers, model) -> list[str]:
    with layers():
        return [name for name, module in model.named_modules() if "forward" in vars(module)]


def test_every_layer_of_a_llama_is_taken():
    lm = make_language_model("Llama")
    attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
    of_a_layer = [f"self_attn.{name}" for name in attention]
    of_a_layer += ["mlp", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    of_a_layer += ["input_layernorm", "post_attention_layernorm"]
    expected = {f"model.layers.{number}.{name}" for number in (0, 1) for name in of_a_layer}
    expected |= {"model.embed_tokens", "model.norm", "lm_head"}
    assert set(replaced(LeanLayers(lm.model), lm.model)) == expected


def test_what_computes_something_else_is_left_alone():
    """Gemma's norm adds one to its weight, its gate is a GELU, its embedding has a scale."""
    lm = make_language_model("Gemma")
    taken = replaced(LeanLayers(lm.model), lm.model)
    assert not [name for name in taken if name.endswith(("mlp", "norm", "embed_tokens"))]
    lm = make_language_model("Llama")
    for layer in lm.model.model.layers:
        layer.mlp.act_fn = torch.nn.GELU()
    assert not [n for n in replaced(LeanLayers(lm.model), lm.model) if n.endswith("mlp")]


def test_frozen_weights_get_nothing():
    lm = make_language_model("Llama")
    lm.model.model.embed_tokens.requires_grad_(False)
    lm.model.model.layers[0].mlp.up_proj.requires_grad_(False)
    found = gradients(lm, branching_sequences(), lean=True)
    assert not {"model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"} & found.keys()
    expected = gradients(lm, branching_sequences(), lean=False)
    assert_equal(found, expected, 1e-4)


def test_padding_in_an_embedding_learns_nothing():
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=320, hidden_size=32, intermediate_size=48, pad_token_id=9)
    config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads = 1, 4, 2
    model = LlamaForCausalLM(config).eval()
    lm = LanguageModel(model, tokenizer, "padded", "test")
    expected = gradients(lm, branching_sequences(), lean=False)
    assert expected["model.embed_tokens.weight"][9].norm() == 0
    assert_equal(gradients(lm, branching_sequences(), lean=True), expected, 1e-4)


def test_all_is_as_before_afterwards_and_after_an_error():
    lm = make_language_model("Llama")
    layers, before = LeanLayers(lm.model), copy.deepcopy(lm.model.state_dict())
    with pytest.raises(KeyError), layers():
        raise KeyError("in a step")
    assert not [name for name, module in lm.model.named_modules() if "forward" in vars(module)]
    assert not [n for n, p in lm.model.named_parameters() if vars(p)]
    assert all(torch.equal(before[name], value) for name, value in lm.model.state_dict().items())
    scorer = LogpScorer.probed(lm)
    (found,) = torch.autograd.grad(
        scorer.logps(scorer.batch(branching_sequences())).sum(), [lm.model.lm_head.weight]
    )
    assert found.norm() > 0


def test_they_keep_no_norm_no_activation_and_no_product():
    lm = make_language_model("Llama")
    scorer = LogpScorer.probed(lm)
    batch = scorer.batch(branching_sequences())
    weights = {weight.untyped_storage().data_ptr() for weight in lm.model.parameters()}

    def kept(layers) -> int:
        found = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        with layers(), saved_tensors_hooks(keep, lambda tensor: tensor):
            assert scorer.logps(batch).requires_grad
        return sum(found.values())

    width, inner, layers = 32, 48, 2
    per_token = layers * (2 * width + 2 * inner) + width
    saved = 4 * per_token * batch.input_ids.numel()
    assert kept(nullcontext) - kept(LeanLayers(lm.model)) == saved


def test_a_model_without_weights_runs_through_them():
    """As where memory is estimated; autocast knows no such device."""
    with torch.device("meta"):
        config = LlamaConfig(
            vocab_size=16, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=1,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
    ids = torch.zeros(1, 4, dtype=torch.long, device="meta")
    mask = torch.zeros(1, 1, 4, 4, device="meta")
    with LeanLayers(model)():
        states = model.model(input_ids=ids, attention_mask=mask, use_cache=False)[0]
    assert states.shape == (1, 4, 8)
