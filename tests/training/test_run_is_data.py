"""A run's folder is data: nothing in it may order the lab to run code, or to build a model."""

import json
import pickle
import shutil
from dataclasses import replace

import pytest
import torch
import transformers
from command_line import run_cli
from safetensors.torch import load_file
from transformers import dynamic_module_utils

from dpo_lab.models.loading import add_lora, load_model
from dpo_lab.models.reward import load_reward_model
from dpo_lab.models.weights import load_weights, save_model
from dpo_lab.training.background import BackgroundRun
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.loop import train
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import prepare
from dpo_lab.training.start_or_resume import open_or_create
from dpo_lab.training.sweep import sweep
from dpo_lab.ui.workbench.run_store import RunStore
from dpo_lab.ui.workbench.workbench import Workbench

SHORT = {"steps": 4, "batch_pairs": 4, "limit": 16, "eval_every": 0, "eval_pairs": 0}
QUICK = TrainConfig(**SHORT, checkpoint_every=2)

CODE = """
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own"

    def __init__(self, **settings):
        with Path({marker!r}).open("a") as file:
            file.write("ran\\n")
        super().__init__(**settings)


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A model that comes with code, which leaves a mark whenever it runs."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder, marker = tmp_path / "own", tmp_path / "marker"
    save_model(load_model("micro", device="cpu"), folder)
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": "own", "architectures": ["OwnModel"]}
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(settings | {"auto_map": names}))
    return folder, marker


@pytest.fixture
def begun(own, tmp_path):
    """A run of that model, begun by a person who trusts it, stopped after two of its steps."""
    folder, marker = own
    config = replace(QUICK, model=str(folder), trust_remote_code=True)
    job = prepare(config)
    run = open_or_create(Run(tmp_path / "runs" / "begun"), job)
    running = train(job, run=run)
    assert [next(running).step, next(running).step] == [1, 2]
    running.close()
    assert json.loads((run.path / "config.json").read_text())["trust_remote_code"] is True
    assert marker.read_text(), "the trap works: its code runs where it is allowed to"
    marker.unlink()
    return run, marker


def test_no_command_runs_a_model_s_code_because_a_file_says_so(begun, capsys):
    run, marker = begun
    for command in (
        ("train", "--resume", "--out", run.path),
        ("sample", "--prompt", "the plot was", "--run", run.path),
        ("export", "--run", run.path),
    ):
        code, _, error = run_cli(capsys, *command)
        assert code == 2 and "--trust-remote-code" in error
    for command in (("runs", "report", run.path), ("runs", "list", run.path.parent)):
        assert run_cli(capsys, *command)[0] == 0
    assert not marker.exists()


def test_a_person_s_own_word_lets_the_run_go_on(begun, capsys):
    run, marker = begun
    words = ("train", "--resume", "--out", run.path, "--trust-remote-code")
    assert run_cli(capsys, *words)[0] == 0
    assert marker.exists() and run.summary["state"] == "done"
    words = ("export", "--run", run.path, "--device", "cpu", "--trust-remote-code")
    assert run_cli(capsys, *words)[0] == 0
    assert (run.path / "export" / "whole-float32" / "own.py").exists(), "its code goes with it"


def test_no_page_runs_a_model_s_code_because_a_file_says_so(begun):
    run, marker = begun
    assert not run.config.trust_remote_code
    with pytest.raises(ValueError, match="--trust-remote-code"):
        BackgroundRun(run.config, folder=run.path).start().wait(60)
    bench = Workbench(folder=run.path.parent)
    bench.show(bench.shelf.runs["begun"])
    assert not bench.state.config.trust_remote_code
    with pytest.raises(ValueError, match="--trust-remote-code"):
        bench.resume().wait(60)
    bench.close()
    assert RunStore(run.path.parent).runs["begun"].config.trust_remote_code is False
    assert not marker.exists()


def test_a_workbench_that_was_told_to_trust_goes_on_after_load(begun):
    run, marker = begun
    bench = Workbench(folder=run.path.parent, trust_remote_code=True)
    bench.show(bench.shelf.runs["begun"])
    bench.resume().wait(60)
    bench.close()
    assert marker.exists() and run.summary["state"] == "done"


def test_a_sweep_goes_by_its_own_word_too(begun):
    run, marker = begun
    config = replace(run.config, trust_remote_code=True)
    sweep({"begun": config}, run.path.parent, workers=1)
    assert marker.exists() and run.finished


def test_a_native_model_s_run_that_asks_for_code_is_not_taken_up_either(tmp_path):
    """Here no code would have to run: the run began with some, so it would not be the same."""
    job = prepare(QUICK)
    run = open_or_create(Run(tmp_path / "run"), job)
    path = run.path / "config.json"
    path.write_text(path.read_text().replace('_code": false', '_code": true'))
    with pytest.raises(ValueError, match="cannot say that it may run.*--trust-remote-code"):
        open_or_create(run, job)


def finished(tmp_path, **settings) -> Run:
    job = prepare(replace(QUICK, **settings))
    run = open_or_create(Run(tmp_path / "run"), job)
    list(train(job, run=run))
    return run


class Order:
    """A pickle that writes a file when it is read by `pickle.load`."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("planted", [None, {"hidden_size": 4096}, "adapter"])
def test_a_checkpoint_is_loaded_by_the_configuration_that_the_run_has(
    tmp_path, monkeypatch, planted
):
    """Without the file `transformers` would build Llama's default, of 7 billion weights."""
    run = finished(tmp_path)
    if planted == "adapter":
        other = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "elsewhere")}
        (run.checkpoint / "adapter_config.json").write_text(json.dumps(other))
    elif planted:
        path = run.checkpoint / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | planted))
    else:
        (run.checkpoint / "config.json").unlink()
    policy = load_model("micro", device="cpu")
    size, build = policy.model.config.hidden_size, transformers.LlamaForCausalLM.__init__

    def watched(self, config):
        assert config.hidden_size == size
        build(self, config)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "__init__", watched)
    load_weights(policy, run.checkpoint)
    saved = load_file(run.checkpoint / "model.safetensors")
    assert saved.keys() == policy.model.state_dict().keys()
    assert all(torch.equal(saved[name], w) for name, w in policy.model.state_dict().items())


@pytest.mark.parametrize("odd", ["pickle", "empty", "text", "list", "other optimiser", "gone"])
def test_a_state_that_is_none_is_named_and_nothing_in_it_runs(tmp_path, odd):
    run, marker = finished(tmp_path), tmp_path / "marker"
    path = run.checkpoint / "trainer.pt"
    state = torch.load(path, weights_only=True)
    (run.checkpoint / "checksums.json").unlink()  # as in a folder of an earlier version
    if odd == "pickle":
        path.write_bytes(pickle.dumps({"step": Order(marker)}))
    elif odd == "empty":
        path.write_bytes(b"")
    elif odd == "text":
        path.write_text("step 2 of 4, all is well")
    elif odd == "list":
        torch.save([1, 2], path)
    elif odd == "other optimiser":
        groups = [{**state["optimizer"]["param_groups"][0], "params": [0]}]
        torch.save(state | {"optimizer": state["optimizer"] | {"param_groups": groups}}, path)
    else:
        path.unlink()
    with pytest.raises(ValueError, match=r"trainer\.pt: .*Remove the folder checkpoint"):
        list(train(prepare(QUICK), run=run))
    assert not marker.exists()
    shutil.rmtree(run.checkpoint)
    steps = [record.step for record in train(prepare(QUICK), run=run)]
    assert steps == [1, 2, 3, 4], "what the message says to do works"


@pytest.mark.parametrize("kind", ["model", "adapter", "reward"])
def test_weights_in_a_pickle_alone_are_not_read(tmp_path, kind):
    folder, marker = tmp_path / "model", tmp_path / "marker"
    model = load_model("micro", device="cpu")
    save_model(add_lora(model, 2) if kind == "adapter" else model, folder)
    name = "adapter_model" if kind == "adapter" else "model"
    (folder / f"{name}.safetensors").unlink()
    odd = {"adapter": "adapter_model.bin"}.get(kind, "pytorch_model.bin")
    (folder / odd).write_bytes(pickle.dumps({"weight": Order(marker)}))
    load = load_reward_model if kind == "reward" else load_model
    with pytest.raises((ValueError, OSError), match="safetensors"):
        load(folder, device="cpu")
    assert not marker.exists()


def test_a_person_s_own_word_lets_a_model_answer(begun, own, capsys):
    run, marker = begun
    for command in (
        ("sample", "--prompt", "the plot was", "--run", run.path),
        ("logps", "--model", own[0], "--limit", 2),
    ):
        assert run_cli(capsys, *command)[0] == 2 and not marker.exists()
        assert run_cli(capsys, *command, "--trust-remote-code")[0] == 0
        assert marker.exists()
        marker.unlink()
