"""Private parts of other libraries that the lab relies on: a new version that lacks one says which.

What is done with each stands in `docs/side_effects.md`; `pyproject.toml` bounds the libraries.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def test_torch_dropouts_share_a_class():
    assert issubclass(torch.nn.Dropout, torch.nn.modules.dropout._DropoutNd)


def test_transformers_attention_by_name():
    from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

    from dpo_lab.kernels.tree_attention import NAME, tree_attention

    config = LlamaConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    model = LlamaForCausalLM(config)
    assert model.config._attn_implementation == "sdpa"
    AttentionInterface.register(NAME, tree_attention)
    model.set_attn_implementation(NAME)
    assert model.config._attn_implementation == NAME
    model.set_attn_implementation("sdpa")
    assert model.config._attn_implementation == "sdpa"


def test_peft_lora_layers():
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import Linear

    adapted = get_peft_model(
        torch.nn.Sequential(torch.nn.Linear(2, 2)), LoraConfig(target_modules=["0"])
    )
    (layer,) = [module for module in adapted.modules() if type(module) is Linear]
    for name in ("active_adapters", "lora_A", "lora_B", "scaling", "merged", "disable_adapters"):
        assert hasattr(layer, name), f"peft's Linear has no {name}"
    assert hasattr(layer, "lora_variant") and hasattr(layer, "base_layer")


def test_ipykernel_comms():
    """Messages go to the thread whose subshell id the comm carries; the lab unsets it."""
    from ipykernel.comm.comm import BaseComm

    assert "_reply_subshell_id" in inspect.getsource(inspect.getmodule(BaseComm))


def test_ipywidgets_view_count():
    import ipywidgets

    assert "_view_count" in ipywidgets.DOMWidget.class_trait_names()
    assert "_dom_classes" in ipywidgets.DOMWidget.class_trait_names()


@pytest.mark.parametrize(
    "library", ["transformers", "peft", "ipykernel", "ipywidgets", "anywidget", "plotly"]
)
def test_libraries_with_private_parts_in_use_are_bounded_from_above(library):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (asked,) = [one for one in project["dependencies"] if re.match(rf"{library}\b", one)]
    assert "<" in asked
