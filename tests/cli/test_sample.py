"""`sample` and `logps`: the very reference of a run, asked as the run asks it."""

import json

import pytest
import torch
from command_line import run_cli

from dpo_lab.models import sampling
from dpo_lab.models.loading import load_model
from dpo_lab.models.weights import save_model
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.loop import train
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import prepare
from dpo_lab.training.start_or_resume import open_or_create

ASK = ("sample", "--prompt", "the plot was", "--device", "cpu", "--json")


def trained(path, **settings) -> Run:
    how = {"steps": 1, "batch_pairs": 4, "limit": 16, "eval_every": 0, "eval_pairs": 0}
    job = prepare(TrainConfig(**how | {"device": "cpu"} | settings))
    run = open_or_create(Run(path), job)
    list(train(job, run=run))
    return run


def asked_limits(monkeypatch) -> list[int]:
    """The most tokens that each model is asked for from now on."""
    limits, complete = [], sampling._complete

    def noted(model, prompts, limit, *rest):
        limits.append(limit)
        return complete(model, prompts, limit, *rest)

    monkeypatch.setattr(sampling, "_complete", noted)
    return limits


def test_reference_and_policy_answer_within_the_limit_of_the_run(tmp_path, capsys, monkeypatch):
    """By its name alone a checkpoint would have 192 tokens, and micro 48."""
    default, own = trained(tmp_path / "a"), trained(tmp_path / "b", max_new_tokens=3)
    limits = asked_limits(monkeypatch)
    for words in (("--run", default.path), ("--run", own.path), ("--run", own.path, "--model",
                  "micro"), ("--run", own.path, "--max-new-tokens", "5"), ()):  # fmt: skip
        assert run_cli(capsys, *ASK, *words)[0] == 0
    assert limits == [48, 48, 3, 3, 3, 3, 5, 5, 48]
    code, _, err = run_cli(capsys, *ASK, "--run", own.path, "--max-new-tokens", "0")
    assert code == 2 and "max_new_tokens=0" in err


def test_weights_that_are_not_the_run_s_reference_do_not_answer_as_it(tmp_path, capsys):
    folder = tmp_path / "model"
    lm = load_model("micro", device="cpu")
    save_model(lm, folder)
    run = trained(tmp_path / "run", model=str(folder))
    code, out, _ = run_cli(capsys, *ASK, "--run", run.path)
    assert code == 0
    with torch.no_grad():
        next(lm.model.parameters()).mul_(1.01)
    save_model(lm, folder)
    code, _, err = run_cli(capsys, *ASK, "--run", run.path)
    assert code == 2 and f"the weights of '{folder}' are not those of the run's reference" in err
    code, again, _ = run_cli(capsys, *ASK, "--run", run.path, "--model", "micro")
    assert code == 0 and json.loads(again) == json.loads(out)


def test_the_reference_is_of_the_run_s_revision(tmp_path, capsys, monkeypatch):
    """The branch of the run's beginning, not what the main one has by now."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    repository = cache / "models--someone--own"
    (repository / "refs").mkdir(parents=True)
    lm = load_model("micro", device="cpu")
    for branch, commit in (("old", "a" * 40), ("main", "b" * 40)):
        (repository / "refs" / branch).write_text(commit)
        save_model(lm, repository / "snapshots" / commit)
        with torch.no_grad():
            next(lm.model.parameters()).neg_()
    run = trained(tmp_path / "run", model="someone/own", revision="old")
    code, out, err = run_cli(capsys, *ASK, "--run", run.path)
    assert code == 0, err
    _, plain, _ = run_cli(capsys, *ASK, "--model", "micro")
    assert json.loads(out)["reference"] == json.loads(plain)["answer"]


@pytest.mark.parametrize("whose", ["model", "run"])
def test_sample_writes_conversations_by_the_template_that_is_given(
    tmp_path, capsys, monkeypatch, whose
):
    file = tmp_path / "mine.jinja"
    file.write_text("good {{ messages[0].content }} was ")
    seen, complete = [], sampling._complete

    def noted(model, prompts, *rest):
        seen.extend(model.tokenizer.decode(ids) for ids in prompts)
        return complete(model, prompts, *rest)

    words = ("--model", "micro") if whose == "model" else ("--run", trained(tmp_path / "run").path)
    monkeypatch.setattr(sampling, "_complete", noted)
    code, _, err = run_cli(
        capsys, "sample", "--prompt", "the plot", *words, "--chat-template", file, "--device", "cpu"
    )
    assert code == 0, err
    assert len(seen) == (1 if whose == "model" else 2)
    assert all("good the plot was" in text for text in seen)


def test_logps_writes_conversations_by_the_template_that_is_given(tmp_path, capsys):
    """A template that adds a word gives what the prompt with that word gives."""
    ask = ("logps", "--data", tmp_path / "rows.jsonl", "--device", "cpu", "--json")
    template = tmp_path / "mine.jinja"
    template.write_text("{{ bos_token }}{{ messages[0].content }} was {% for m in messages[1:] %}{{ m.content }}{% endfor %}")  # noqa: E501  # fmt: skip

    def logp(prompt: str, *words) -> float:
        row = {"prompt": prompt, "chosen": "good", "rejected": "bad"}
        (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
        code, out, err = run_cli(capsys, *ask, *words)
        assert code == 0, err
        return json.loads(out)["chosen_logp"]

    with_word = logp("the plot was")
    assert logp("the plot", "--chat-template", template) == pytest.approx(with_word, abs=1e-5)
    assert logp("the plot") != pytest.approx(with_word, abs=0.1)
    code, _, err = run_cli(capsys, *ask, "--chat-template", tmp_path / "none.jinja")
    assert code == 2 and "no such file" in err
