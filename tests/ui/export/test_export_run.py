"""An exported folder, loaded by plain libraries, is the policy; one that is not is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from exported_runs import ROWS, tiny_run
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny import plain_log_probs
from transformers import AutoModelForCausalLM, AutoTokenizer

import dpo_lab
from dpo_lab.models import exported
from dpo_lab.models.adapters import quiet_peft
from dpo_lab.ui.export import export_run as module
from dpo_lab.ui.export.export_run import export_run

pytestmark = pytest.mark.usefixtures("one_thread")
FAMILIES = ("Llama", "Qwen2", "Gemma")  # Qwen2's head is tied here, and so is Gemma's


@pytest.fixture(scope="module")
def runs(tmp_path_factory, one_thread):
    """A run with LoRA and one without, of each family, by name."""
    root = tmp_path_factory.mktemp("runs")
    return {
        (family, rank): tiny_run(root / f"{family}-{rank}", family, lora_rank=rank)
        for family in FAMILIES
        for rank in (None, 4)
    }


def plain(folder, **options):
    with quiet_peft():
        return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def trained_policy(run):
    """What the run's checkpoint says, by plain libraries, its adapter beside the base."""
    checkpoint = run.path / "checkpoint"
    if not (checkpoint / "adapter_config.json").exists():
        return plain(checkpoint)
    with quiet_peft():
        return PeftModel.from_pretrained(plain(run.config.model), checkpoint).eval()


@torch.no_grad()
def far(one, other) -> float:
    """Largest difference of any token's log-probability, over the whole vocabulary."""
    ids = [(5, 6, 7, 8), (60, 70, 80, 90, 1)]
    return (plain_log_probs(one, *ids) - plain_log_probs(other, *ids)).abs().max().item()


@pytest.mark.parametrize("rank", [None, 4], ids=["whole", "LoRA"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_float32_export_is_the_policy(runs, tmp_path, family, rank):
    run, before = runs[family, rank], plain(runs[family, rank].config.model)
    done = export_run(run, tmp_path / "out", merge=True, device="cpu")
    policy, folder = trained_policy(run), plain(tmp_path / "out")
    assert far(policy, before) > 0.1, "training moved it"
    assert far(policy, folder) < 1e-4
    assert type(folder).__name__ == f"{family}ForCausalLM"
    assert done.form == ("merged" if rank else "whole") and not done.base
    (found,) = done.agreements
    assert found.largest < 1e-4 and abs(found.kl_per_token) < 1e-8 and found.greedy_differ == 0
    tied = folder.config.tie_word_embeddings
    assert tied == (family != "Llama")
    assert ("lm_head.weight" in load_file(tmp_path / "out" / "model.safetensors")) != tied


def test_an_adapter_on_a_tied_head_is_merged_into_the_head_alone(tmp_path):
    """Which is untied for it: the embedding stays the base's."""
    run = tiny_run(tmp_path, "Qwen2", lora_rank=4, lora_targets=("q_proj", "lm_head"))
    (found,) = export_run(run, tmp_path / "out", merge=True, device="cpu").agreements
    folder, base = plain(tmp_path / "out"), plain(run.config.model)
    assert found.largest < 1e-4 and not folder.config.tie_word_embeddings
    assert torch.equal(folder.model.embed_tokens.weight, base.model.embed_tokens.weight)
    assert (folder.lm_head.weight - base.lm_head.weight).abs().max() > 0.01


def test_merging_is_the_sum_of_the_matrices(runs, tmp_path):
    """W + alpha / r * B A, in float32, then rounded once to bfloat16."""
    run, name = runs["Llama", 4], "model.layers.1.mlp.up_proj"
    export_run(run, tmp_path / "out", merge=True, dtype="bfloat16", probes=0, device="cpu")
    base = load_file(Path(run.config.model) / "model.safetensors")
    adapter = load_file(run.path / "checkpoint" / "adapter_model.safetensors")
    a, b = (adapter[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    weight = load_file(tmp_path / "out" / "model.safetensors")[f"{name}.weight"]
    assert weight.dtype == torch.bfloat16
    expected = base[f"{name}.weight"].double() + 2 * b.double() @ a.double()
    torch.testing.assert_close(weight.double(), expected, rtol=2**-8, atol=0)


def test_an_adapter_alone_is_loaded_onto_its_base(runs, tmp_path):
    run = runs["Llama", 4]
    done = export_run(run, tmp_path / "out", device="cpu")
    assert done.form == "adapter" and done.base == run.config.model
    assert far(trained_policy(run), plain(tmp_path / "out")) < 1e-5
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert not names & {"trainer.pt", "checksums.json", "model.safetensors"}
    with pytest.raises(FileExistsError, match="holds a model already"):
        export_run(run, tmp_path / "out", merge=True)


def test_half_precision_shows_what_it_costs(runs, tmp_path):
    found = {}
    for dtype in ("bfloat16", "float16"):
        done = export_run(
            runs["Qwen2", 4], tmp_path / dtype, merge=True, dtype=dtype, probes=64, device="cpu"
        )
        (found[dtype],) = done.agreements
        assert plain(tmp_path / dtype, dtype="auto").dtype == getattr(torch, dtype)
        kept = json.loads((tmp_path / dtype / "export_check.json").read_text())
        assert kept["loaded"][0]["kl_per_token"] == found[dtype].kl_per_token
    # Eight bits of a number's fraction against eleven: errors 8 times, and a KL 64 times as large.
    ratio = found["bfloat16"].kl_per_token / found["float16"].kl_per_token
    assert 10 < ratio < 400 and found["float16"].kl_per_token > 1e-9


def test_a_cpu_without_bfloat16_compares_rounded_weights_in_float32(runs, tmp_path, monkeypatch):
    """Which is most of what bfloat16 costs; its products there would take hours."""
    run, found = runs["Qwen2", None], []
    for bf16 in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=bf16: {"avx512_bf16": has})
        out = tmp_path / str(bf16)
        found += export_run(run, out, dtype="bfloat16", device="cpu").agreements
    assert [one.loaded for one in found] == [
        "whole, bfloat16",
        "whole, bfloat16, computed in float32",
    ]
    assert 0 < found[1].kl_per_token < found[0].kl_per_token


def test_a_damaged_export_is_refused_and_not_kept(runs, tmp_path, monkeypatch):
    def damaged(model, folder, dtype):
        exported.write_whole(model, folder, dtype)
        weights = load_file(folder / "model.safetensors")
        weights["model.layers.0.mlp.down_proj.weight"] *= 1.01
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(module, "write_whole", damaged)
    with pytest.raises(ValueError, match="is not the policy that was trained: .* nats on the mean"):
        export_run(runs["Llama", None], tmp_path / "out", device="cpu")
    assert not list(tmp_path.iterdir())


def test_another_base_under_the_adapter_is_seen(tmp_path):
    run = tiny_run(tmp_path, lora_rank=2)
    path = Path(run.config.model) / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.0.mlp.down_proj.weight"][0, 0] += 1
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="is not the model that the run began with"):
        export_run(run, tmp_path / "out", merge=True, device="cpu")
    assert not (tmp_path / "out").exists()


def test_the_tokenizer_writes_what_it_wrote_in_training_and_answers_end(tmp_path):
    """With the run's own chat template, whose end of turn ends generation."""
    template = tmp_path / "template.jinja"
    text = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}"
    template.write_text(text + "{% if add_generation_prompt %}[assistant]{% endif %}")
    run = tiny_run(tmp_path, template="ChatML", chat_template=str(template))
    export_run(run, tmp_path / "out", device="cpu")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    asked = [{"role": "user", "content": "where is it"}]
    written = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert written == "[user]where is it<|im_end|>[assistant]"
    ends = plain(tmp_path / "out").generation_config.eos_token_id
    assert ends == [1, tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_probes_are_held_out_or_ones_own_or_what_the_run_kept(tmp_path, caplog):
    run = tiny_run(tmp_path)
    kept = {sample.prompt for sample in run.last_samples()}

    def probed(name, **options):
        export_run(run, tmp_path / name, device="cpu", **options)
        return json.loads((tmp_path / name / "export_check.json").read_text())["probes"]

    assert probed("a") == "3 held-out prompts"
    assert probed("b", prompts=["who is it", "what is there"]) == "2 your own prompts"
    data = Path(run.config.data)
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS[::-1]))
    assert probed("c") == f"{len(kept)} prompts whose answers the run kept"
    assert "its data is not what it was" in caplog.text
    data.unlink()
    assert probed("d") == f"{len(kept)} prompts whose answers the run kept"


def test_what_cannot_be_exported_is_said(runs, tmp_path, monkeypatch):
    run = runs["Llama", None]
    with pytest.raises(ValueError, match="dtype='int3'.*float32, bfloat16, float16"):
        export_run(run, tmp_path / "out", dtype="int3")
    with pytest.raises(ValueError, match="probes=-1"):
        export_run(run, tmp_path / "out", probes=-1)
    with pytest.raises(FileNotFoundError, match="no run there"):
        export_run(tmp_path, tmp_path / "out")
    shutil.copytree(run.path, tmp_path / "young", ignore=shutil.ignore_patterns("checkpoint"))
    with pytest.raises(FileNotFoundError, match="no checkpoint yet"):
        dpo_lab.export_run(tmp_path / "young", tmp_path / "out")
    usage = type("Usage", (), {"free": 20_000_100})
    monkeypatch.setattr(exported.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match=r"takes 0\.02 GB, and 0\.02 GB are free"):
        export_run(run, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()
