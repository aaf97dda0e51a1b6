"""Weights in 4 bits: gradients, fingerprints, merging, QLoRA's reference; and what is refused.

What needs bitsandbytes is skipped without it: pip install 'dpo-lab[quantize]'.
"""

from importlib.util import find_spec

import pytest
import torch
from exported_runs import HOW, ROWS, tiny_folder, tiny_run
from tiny import FAMILIES, plain_log_probs, shake, some_sequences
from transformers import AutoModelForCausalLM

from dpo_lab.data.batching import collate
from dpo_lab.models import quantised
from dpo_lab.models.loading import add_lora, load_model
from dpo_lab.models.quantised import bits_config, compute_in_float32
from dpo_lab.models.scoring import LogpScorer
from dpo_lab.models.weights import base_fingerprint, weights_fingerprint
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.setup import prepare
from dpo_lab.ui.export.export_run import export_run

pytestmark = pytest.mark.usefixtures("one_thread")
needs = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="no bitsandbytes")
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    return tiny_folder(tmp_path / "base")


def twin(quantised_model, folder):
    """The same weights, written out in float32 by bitsandbytes' own function, in plain layers."""
    from bitsandbytes.functional import dequantize_4bit

    plain = load_model(folder, device="cpu")
    modules = dict(plain.model.named_modules())
    for name, module in quantised_model.model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            modules[name].weight.data = dequantize_4bit(module.weight.data, state).float()
    return plain


@needs
def test_values_and_gradients_are_those_of_the_weights_written_out(tmp_path, monkeypatch):
    """In evaluation mode too, where bitsandbytes on some CPUs takes a kernel without gradients.

    It takes it for layers whose width is a multiple of 64.
    """
    wide = FAMILIES["Llama"] | {"hidden_size": 64, "intermediate_size": 128}
    monkeypatch.setitem(FAMILIES, "Llama", wide)
    folder = tiny_folder(tmp_path / "base")
    models = [load_model(folder, device="cpu", quantize="4bit")]
    models.append(twin(models[0], folder))
    original = load_model(folder, device="cpu")
    batch, found = collate(some_sequences(4), 0), []
    for lm in models:
        lm = add_lora(lm, 4, seed=0)
        shake(lm.model, 0.1, seed=1, only="lora_")
        logps = LogpScorer.probed(lm).logps(batch)
        weights = [weight for weight in lm.model.parameters() if weight.requires_grad]
        gradients = torch.autograd.grad(logps.sum(), weights)
        found.append((logps.detach(), torch.cat([part.flatten() for part in gradients])))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)
    assert found[0][1].norm() > 1
    assert (found[0][0] - LogpScorer.probed(original).logps(batch)).abs().max() > 0.01


@needs
def test_layers_that_compute_in_bfloat16_can_be_made_to_compute_in_float32(folder):
    """As on a GPU, where they do in training; a policy that is compared does not."""
    lm, ids = load_model(folder, device="cpu", quantize="4bit"), ((5, 6, 7), (8, 9, 1))
    expected = plain_log_probs(twin(lm, folder).model, *ids)
    for module in lm.model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = torch.bfloat16
    assert (plain_log_probs(lm.model, *ids) - expected).abs().max() > 1e-3
    compute_in_float32(lm.model)
    assert (plain_log_probs(lm.model, *ids) - expected).abs().max() < 1e-5


@needs
def test_linear_layers_are_quantised_and_head_embedding_and_norms_are_not(folder):
    model = load_model(folder, device="cpu", quantize="4bit").model
    layer = model.model.layers[0]
    assert layer.mlp.up_proj.weight.dtype == torch.uint8
    assert (
        layer.mlp.up_proj.quant_state.nested and layer.mlp.up_proj.quant_state.quant_type == "nf4"
    )
    for weight in (model.lm_head.weight, model.model.embed_tokens.weight):
        assert weight.dtype == torch.float32
    assert layer.input_layernorm.weight.dtype == torch.float32


@needs
def test_the_reference_is_the_quantised_base_and_the_start_is_checked(folder, tmp_path):
    config = TrainConfig(
        model=str(folder), lora_rank=4, quantize="4bit", **HOW | {"held_out": 0, "eval_every": 0}
    )
    job = prepare(config, data=ROWS)
    batch = collate(some_sequences(4), 0)
    alone = LogpScorer.probed(load_model(folder, device="cpu", quantize="4bit")).logps(batch)
    shake(job.policy.model, 0.1, seed=1, only="lora_")
    with job.reference.active() as reference, torch.no_grad():
        assert torch.equal(reference.logps(batch), alone)
    assert (job.scorer.logps(batch) - alone).abs().max() > 0.1


@needs
def test_a_base_has_its_fingerprint_under_an_adapter_too(folder):
    for quantize in (None, "4bit"):
        lm = load_model(folder, device="cpu", quantize=quantize)
        before = weights_fingerprint(lm.model)
        adapted = add_lora(lm, 4)
        assert base_fingerprint(adapted) == before
        shake(adapted.model, 0.1, seed=1, only="lora_")
        assert base_fingerprint(adapted) == before


@needs
def test_a_policy_of_qlora_is_exported_as_it_was_trained(tmp_path):
    """Merged into what quantising made of its base; not into the base, whose copy is far off."""
    run = tiny_run(tmp_path, lora_rank=4, quantize="4bit")
    done = export_run(run, tmp_path / "merged", merge=True, also=["8bit"], device="cpu")
    whole, eight = done.agreements
    assert whole.largest < 1e-4 and whole.greedy_differ == 0
    assert 1e-6 < eight.kl_per_token < 0.1 and eight.loaded == "merged, float32, loaded in 8 bits"
    (adapter,) = export_run(run, tmp_path / "adapter", device="cpu").agreements
    assert adapter.kl_per_token > 10 * eight.kl_per_token, "on the base's own weights"
    assert "QLoRA, NF4" in (tmp_path / "adapter" / "README.md").read_text()
    # By plain libraries alone: no quantised layer is left.
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not getattr(model.config, "quantization_config", None)
    policy = load_model(run.path / "checkpoint", device="cpu", merge=False, quantize="4bit").model
    ids = (5, 6, 7, 8), (60, 70, 80, 90, 1)
    with torch.no_grad():
        difference = plain_log_probs(model, *ids) - plain_log_probs(policy, *ids)
    assert difference.abs().max() < 1e-4


def test_what_cannot_be_quantised_is_said(folder, monkeypatch):
    with pytest.raises(ValueError, match="cannot be trained. Give lora_rank"):
        TrainConfig(quantize="4bit")
    if find_spec("bitsandbytes"):
        with pytest.raises(ValueError, match="nothing is compared with probes=0"):
            export_run(tiny_run(folder.parent / "run"), also=["8bit"], probes=0, device="cpu")
    with pytest.raises(ValueError, match="'3bit': no kind of quantised weights"):
        bits_config("3bit", CPU)
    config = TrainConfig(model=str(folder), lora_rank=4, quantize="4bit", **HOW)
    with pytest.raises(ValueError, match="not divided among processes"):
        prepare(config, data=ROWS, strategy="fsdp")
    with pytest.raises(ValueError, match="is loaded already, .* Give its name or folder"):
        prepare(config, data=ROWS, model=load_model(folder, device="cpu"))
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'dpo-lab\[quantize\]'"):
        load_model(folder, device="cpu", quantize="4bit")
    monkeypatch.setattr(quantised, "find_spec", lambda name: True)
    with pytest.raises(ValueError, match="bitsandbytes has no layers for mps"):
        bits_config("4bit", torch.device("mps"))


@needs
def test_an_adapter_is_no_base_of_qlora(tmp_path):
    run = tiny_run(tmp_path, lora_rank=2)
    config = TrainConfig(model=str(run.path / "checkpoint"), lora_rank=4, quantize="4bit", **HOW)
    with pytest.raises(ValueError, match="is an adapter, which cannot be merged into quantised"):
        prepare(config, data=ROWS)
