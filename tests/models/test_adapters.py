"""The adapter's fused pass is PEFT's own, in either precision; its seed touches nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import make_language_model, shake, some_sequences

from dpo_lab.data.batching import collate
from dpo_lab.models.adapters import seeded
from dpo_lab.models.loading import LanguageModel, add_lora
from dpo_lab.models.scoring import LogpScorer

# Of the largest number: float32 sums in another order; a bfloat16 has eight bits, and PEFT rounds
# the adapter's part thrice, so that an addition may go the other way.
ROUNDING = {"float32": 1e-5, "bfloat16": 2**-7}


def adapted() -> LanguageModel:
    lm = add_lora(make_language_model(), 4, alpha=6)
    shake(lm.model, 0.3, seed=1, only="lora_B")
    return lm


def as_peft_has_it(model: torch.nn.Module) -> torch.nn.Module:
    plain = copy.deepcopy(model)
    fused = [module for module in plain.modules() if "forward" in vars(module)]
    assert fused
    for layer in fused:
        del layer.forward
    return plain


@pytest.mark.parametrize("precision", ROUNDING)
def test_values_and_gradients_of_a_layer_are_pefts(precision):
    model = adapted().model
    layers = [
        m.base_model.model.model.layers[1].mlp.up_proj for m in (model, as_peft_has_it(model))
    ]
    states = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    upstream = torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(1))
    results = []
    for layer in layers:
        own = states.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            output = layer(own)
        wanted = own, layer.lora_A["default"].weight, layer.lora_B["default"].weight
        gradients = torch.autograd.grad((output.float() * upstream).sum(), wanted)
        results.append([output, *gradients])
    assert results[0][0].dtype == getattr(torch, precision)
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        tolerance = ROUNDING[precision] * theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def test_a_policy_with_an_adapter_is_scored_and_trained_in_bfloat16():
    """Off by bfloat16's rounding from float32, far less than by what the adapter changes."""
    lm, batch = adapted(), collate(some_sequences(4), 0)
    weights = [weight for weight in lm.model.parameters() if weight.requires_grad]
    found = {}
    for precision in ROUNDING:
        logps = LogpScorer.probed(lm, precision).logps(batch)
        gradients = torch.autograd.grad(logps.sum(), weights)
        found[precision] = logps.detach(), torch.cat([part.flatten() for part in gradients])
    with lm.model.disable_adapter(), torch.no_grad():
        off = LogpScorer.probed(lm).logps(batch)
    exact, rough = found["float32"], found["bfloat16"]
    assert 0 < (rough[0] - exact[0]).abs().max() < 0.1 * (exact[0] - off).abs().max()
    assert torch.cosine_similarity(rough[1], exact[1], dim=0) > 0.99


def test_what_fails_in_a_pass_that_fits_is_not_put_down_to_its_length(monkeypatch):
    lm = make_language_model()

    def fails(*args, **options):
        raise RuntimeError("self and mat2 must have the same dtype\nand more")

    monkeypatch.setattr(lm.model.model.layers[0].mlp, "forward", fails)
    with pytest.raises(
        ValueError, match=r"fails in float32 \(self and mat2 must.*dtype\)"
    ) as caught:
        LogpScorer.probed(lm)
    assert "max_length" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_seed_is_for_its_device_alone_and_for_a_while(monkeypatch):
    """With generators of the CPU in place of MPS' and of two of CUDA's."""
    others = {name: torch.Generator().manual_seed(9) for name in ("mps", "cuda:0", "cuda:1")}
    monkeypatch.setattr(torch.mps, "_get_default_mps_generator", lambda: others["mps"])
    monkeypatch.setattr(torch.cuda, "default_generators", (others["cuda:0"], others["cuda:1"]))
    for taken in ("cpu", "mps", "cuda:1"):
        every = {"cpu": torch.default_generator, **others}
        before = {name: generator.get_state() for name, generator in every.items()}
        with pytest.raises(KeyError), seeded(torch.device(taken), 5):
            for name, generator in every.items():
                seed = 5 if name in ("cpu", taken) else None
                drawn = torch.rand(3, generator=generator)
                expected = torch.Generator()
                expected.set_state(before[name]) if seed is None else expected.manual_seed(seed)
                assert torch.equal(drawn, torch.rand(3, generator=expected)), (taken, name)
            raise KeyError
        for name in ("cpu", taken):
            assert torch.equal(every[name].get_state(), before[name]), (taken, name)
