import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny import make_language_model, plain_logp, shake, some_sequences
from transformers import AutoModelForCausalLM, OPTConfig, OPTForCausalLM

from dpo_lab.models.checksums import write_checksums
from dpo_lab.models.devices import resolve_device, resolve_precision
from dpo_lab.models.dropout import disable_dropout
from dpo_lab.models.loading import LanguageModel, add_lora, load_model
from dpo_lab.models.scoring import LogpScorer, score_sequences
from dpo_lab.models.weights import load_weights, save_model, weights_fingerprint

SEQUENCES = some_sequences(4)


def logps(language_model: LanguageModel) -> torch.Tensor:
    return score_sequences(LogpScorer.probed(language_model), SEQUENCES)


@pytest.fixture
def base(tmp_path):
    """A folder with a tiny model whose head is tied to its embedding."""
    save_model(make_language_model("Qwen2"), tmp_path / "base")
    return tmp_path / "base"


def adapted(base, seed=1, **options) -> LanguageModel:
    """The model in a folder with a trained adapter."""
    lm = add_lora(load_model(base, device="cpu"), 4, **options)
    shake(lm.model, 0.2, seed=seed, only="lora_")
    return lm


def test_micro():
    lm = load_model("micro", device="cpu")
    assert {weight.dtype for weight in lm.model.parameters()} == {torch.float32}
    assert lm.device.type == "cpu" and not lm.lora and not lm.model.training
    assert lm.origin == "comes with the lab" and lm.base is lm.model


def test_fingerprint_is_of_the_weights_and_their_meaning():
    one, two = (load_model("micro", device="cpu") for _ in range(2))
    assert weights_fingerprint(one.model) == weights_fingerprint(two.model)
    with torch.no_grad():
        next(reversed(list(two.model.parameters()))).view(-1)[-1] += 1e-6
    assert weights_fingerprint(one.model) != weights_fingerprint(two.model)
    other = load_model("micro", device="cpu")
    other.model.config.rms_norm_eps = 0.5
    assert weights_fingerprint(one.model) != weights_fingerprint(other.model)


def test_fingerprint_is_of_an_adapters_scale_and_of_whether_it_is_on(base):
    """Two alphas give the same weights another meaning; so do an adapter off and one of two."""
    one, same, other = (adapted(base, alpha=alpha) for alpha in (8, 8, 16))
    assert (logps(one) - logps(other)).abs().max() > 0.1
    for part in ("model", "base"):
        first, again, third = (weights_fingerprint(getattr(lm, part)) for lm in (one, same, other))
        assert first == again != third
        with one.model.disable_adapter():
            assert weights_fingerprint(getattr(one, part)) != first
        assert weights_fingerprint(getattr(one, part)) == first
    two = adapted(base)
    two.model.add_adapter("second", two.model.peft_config["default"])
    before = weights_fingerprint(two.model)
    two.model.set_adapter("second")
    assert weights_fingerprint(two.model) != before


def test_fingerprint_survives_saving(base, tmp_path):
    lm = load_model(base, device="cpu")
    save_model(lm, tmp_path / "again")
    again = load_model(tmp_path / "again", device="cpu")
    assert weights_fingerprint(again.model) == weights_fingerprint(lm.model)


def test_round_trip_of_all_weights(base, tmp_path):
    lm = load_model(base, device="cpu")
    shake(lm.model, 0.1, seed=1)
    save_model(lm, tmp_path / "saved")
    expected = logps(lm)
    fresh = load_model(base, device="cpu")
    assert not torch.allclose(logps(fresh), expected)
    load_weights(fresh, tmp_path / "saved")
    assert torch.equal(logps(fresh), expected)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    for sequence, value in zip(SEQUENCES, expected, strict=True):
        assert abs(plain_logp(theirs, *sequence).item() - value) < 1e-4


@pytest.mark.parametrize("targets", [None, ("q_proj", "lm_head"), ("embed_tokens",)])
def test_round_trip_of_an_adapter(base, tmp_path, targets):
    """Saved, an adapter gives the same policy to this lab, merged or not, and to PEFT.

    Head and embedding share their weights here, so a merge into either must not change both.
    """
    lm = adapted(base, targets=targets)
    expected, plain = logps(lm), logps(load_model(base, device="cpu"))
    assert (expected - plain).abs().max() > 0.1
    save_model(lm, tmp_path / "adapter")

    merged = load_model(tmp_path / "adapter", device="cpu")
    assert merged.merged and not merged.lora
    torch.testing.assert_close(logps(merged), expected, rtol=0, atol=1e-4)
    save_model(merged, tmp_path / "merged")
    again = load_model(tmp_path / "merged", device="cpu")
    torch.testing.assert_close(logps(again), expected, rtol=0, atol=1e-4)

    fresh = add_lora(load_model(base, device="cpu"), 4, targets=targets)
    torch.testing.assert_close(logps(fresh), plain, rtol=0, atol=1e-5)
    load_weights(fresh, tmp_path / "adapter")
    assert torch.equal(logps(fresh), expected)

    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter"
    )
    for sequence, value in zip(SEQUENCES, expected, strict=True):
        assert abs(plain_logp(theirs, *sequence).item() - value) < 1e-4


def test_an_adapter_changes_nothing_at_first_and_is_seeded(base):
    plain = logps(load_model(base, device="cpu"))
    state = torch.get_rng_state()
    models = [add_lora(load_model(base, device="cpu"), 2, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(logps(models[0]), plain, rtol=0, atol=1e-5)
    first, same, other = (
        torch.cat([w.flatten() for name, w in lm.model.named_parameters() if "lora_A" in name])
        for lm in models
    )
    assert torch.equal(first, same) and not torch.equal(first, other)
    names = [name for name, w in models[0].model.named_parameters() if w.requires_grad]
    assert all("lora_" in name and "lm_head" not in name for name in names) and names


def test_an_adapter_on_an_adapter_is_refused(base, tmp_path):
    """Saved alone, the second would be loaded onto the base without the first."""
    lm = adapted(base)
    save_model(lm, tmp_path / "adapter")
    for taken in (lm, load_model(tmp_path / "adapter", device="cpu")):
        with pytest.raises(ValueError, match="carries an adapter already.*save_model"):
            add_lora(taken, 2)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rank": 0}, "lora_rank=0: must be at least 1"),
        ({"rank": 2, "targets": ("q_proj", "lm_haed")}, "no module 'lm_haed'.*module names"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(base, options, message):
    with pytest.raises(ValueError, match=message):
        add_lora(load_model(base, device="cpu"), **options)


def other_rank(base, tmp_path):
    save_model(adapted(base), tmp_path / "other")
    return add_lora(load_model(base, device="cpu"), 2), tmp_path / "other"


def other_targets(base, tmp_path):
    save_model(adapted(base), tmp_path / "other")
    return add_lora(load_model(base, device="cpu"), 4, targets=("q_proj",)), tmp_path / "other"


def fewer_targets(base, tmp_path):
    save_model(adapted(base, targets=("q_proj",)), tmp_path / "other")
    return add_lora(load_model(base, device="cpu"), 4), tmp_path / "other"


def adapter_into_full(base, tmp_path):
    save_model(adapted(base), tmp_path / "other")
    return load_model(base, device="cpu"), tmp_path / "other"


def full_into_adapter(base, tmp_path):
    return add_lora(load_model(base, device="cpu"), 4), base


def other_family(base, tmp_path):
    """Qwen2 has the shape of this Llama, and biases on top."""
    save_model(make_language_model("Llama"), tmp_path / "llama")
    return load_model(tmp_path / "llama", device="cpu"), base


def no_folder(base, tmp_path):
    return load_model(base, device="cpu"), tmp_path / "nowhere"


def cut_short(base, tmp_path):
    cut(base)
    return make_language_model("Qwen2"), base


@pytest.mark.parametrize(
    "case",
    [
        other_rank,
        other_targets,
        fewer_targets,
        adapter_into_full,
        full_into_adapter,
        other_family,
        no_folder,
        cut_short,
    ],
)
def test_weights_that_do_not_fit_are_refused(case, base, tmp_path):
    lm, folder = case(base, tmp_path)
    with pytest.raises(ValueError, match="its weights do not fit.*belongs to another model"):
        load_weights(lm, folder)


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def without_a_weight(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["model.norm.weight"]
    save_file(weights, path, metadata={"format": "pt"})


def without_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def of_another_task(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))


def configured(**changes):
    """Damage: other fields in config.json."""

    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return damage


def written(name: str, text: str):
    """Damage: a file that holds something else."""
    return lambda folder: (folder / name).write_text(text)


def without_anything(folder):
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    "damage, reason",
    [
        (cut, "deserializing"),
        (without_a_weight, r"1 weights are missing, such as model\.norm\.weight"),
        (without_tokenizer, "special tokens only"),
        (of_another_task, "vit"),
        (without_anything, "config.json"),
        (
            configured(vocab_size=330),
            r"1 weights have another shape than config\.json says, such as "
            r"model\.embed_tokens\.weight: \(320, 32\), not \(330, 32\)",
        ),
        (configured(intermediate_size=40), "6 weights have another shape"),
        (configured(hidden_size="wide"), "'hidden_size' expected int, got str"),
        (configured(hidden_act="gulp"), "KeyError: 'gulp'"),
        (configured(num_attention_heads=0), "ZeroDivisionError"),
        (configured(hidden_size=-4), "RuntimeError: .*negative dimension"),
        (written("config.json", "3"), "TypeError"),
        (written("generation_config.json", "[]"), "TypeError"),
        (written("tokenizer_config.json", "[]"), "AttributeError"),
        (written("tokenizer.json", "{}"), "KeyError: 'added_tokens'"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused(base, damage, reason):
    damage(base)
    with pytest.raises(ValueError, match=f"cannot be loaded.*{reason}.*It must hold") as caught:
        load_model(base, device="cpu")
    assert type(caught.value) is ValueError and "\n" not in str(caught.value)


def test_the_name_of_a_file_is_refused_and_a_path_below_one_is_no_model(base):
    file = base / "model.safetensors"
    with pytest.raises(ValueError, match=r"safetensors': is a file\. Give the folder that it lies"):
        load_model(file)
    with pytest.raises(FileNotFoundError, match="no such folder, and the hub.*Give micro"):
        load_model(file / "deeper")


@pytest.mark.parametrize("method", ["gptq", "awq", "hqq", "aqlm"])
def test_quantised_weights_without_their_package_are_refused_in_one_line(base, method):
    config = json.loads((base / "config.json").read_text())
    quantised = {"quantization_config": {"quant_method": method, "bits": 4}}
    (base / "config.json").write_text(json.dumps(config | quantised))
    (base / "checksums.json").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="without a package.*Install it, or take") as caught:
        load_model(base, device="cpu")
    assert method in str(caught.value).lower()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["no/such-model", "./nowhere", "/no/such/folder"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(FileNotFoundError, match="no such folder, and the hub.*Give micro"):
        load_model(name)


def test_hub_ids_are_found_in_the_cache_when_there_is_no_network(base, tmp_path, monkeypatch):
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    commits = {"base": "b" * 40, "adapter": "a" * 40}
    for name, commit in commits.items():
        repository = cache / f"models--someone--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
    snapshot = cache / "models--someone--base" / "snapshots" / commits["base"]
    shutil.copytree(base, snapshot)
    plain = load_model("someone/base", device="cpu")
    assert torch.equal(logps(plain), logps(load_model(base, device="cpu")))

    lm = adapted("someone/base")
    save_model(lm, cache / "models--someone--adapter" / "snapshots" / commits["adapter"])
    merged = load_model("someone/adapter", device="cpu")
    assert merged.merged and merged.origin == "hub: someone/adapter"
    torch.testing.assert_close(logps(merged), logps(lm), rtol=0, atol=1e-4)


def test_training_randomness_without_a_module_is_removed():
    """OPT skips layers by a number that no dropout module holds; routers shake their input."""
    config = OPTConfig(
        vocab_size=8, hidden_size=8, ffn_dim=8, num_attention_heads=2, word_embed_proj_dim=8
    )
    model = OPTForCausalLM(config)
    model.model.decoder.layerdrop, model.model.decoder.jitter_noise = 0.5, 0.1
    disable_dropout(model)
    assert model.model.decoder.layerdrop == model.model.decoder.jitter_noise == 0
    assert model.config.dropout == 0.1, "the configuration, which is saved, stays"


def test_devices_and_precisions():
    cpu = resolve_device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    assert resolve_precision("auto", cpu) == resolve_precision("float32", cpu) == "float32"
    assert resolve_precision("bfloat16", cpu) == "bfloat16"
    with pytest.raises(ValueError, match="device='tpu': this machine has.*Use 'auto'"):
        resolve_device("tpu")
    with pytest.raises(ValueError, match="precision='half'.*Use one of auto, float32, bfloat16"):
        resolve_precision("half", cpu)


def test_a_checkpoint_without_its_optimiser_is_a_model(tmp_path):
    """Of one that several processes wrote as well, whose optimiser is a folder."""
    folder = tmp_path / "checkpoint"
    save_model(load_model("micro", device="cpu"), folder)
    (folder / "optimizer").mkdir()
    for name in ("trainer.pt", "optimizer/shard-00001.safetensors"):
        (folder / name).write_bytes(b"anything")
    write_checksums(folder)
    shutil.rmtree(folder / "optimizer")
    (folder / "trainer.pt").unlink()
    assert load_model(folder, device="cpu").encoder.vocabulary == 38
    (folder / "model.safetensors").write_bytes(b"anything")
    with pytest.raises(ValueError, match="model.safetensors: is not what was written"):
        load_model(folder, device="cpu")
