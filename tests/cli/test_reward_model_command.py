"""The command that trains a reward model, and runs that train on it, from the command line."""

import re

import pytest
import torch

from dpo_lab.cli.commands import main
from dpo_lab.models.reward import load_reward_model
from dpo_lab.training.runs import Run


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DPO_LAB_RUNS", str(tmp_path))
    return tmp_path


def test_a_reward_model_is_trained_said_how_good_and_trained_on(folder, capsys):
    main(["reward-model", "train", "--limit", "400", "--epochs", "1", "--seed", "2"])
    out = capsys.readouterr().out
    model = load_reward_model(folder / "reward-model", "cpu")
    share, n, low, high = map(float, re.search(
        r"Ranks ([\d.]+)% of (\d+) held-out.*\(95 % interval ([\d.]+)% to ([\d.]+)%\)",
        " ".join(out.split()),
    ).groups())  # fmt: skip
    assert n == 600 and low < share < high and share > 55
    # It ranks praise above blame: what its pairs say.
    praise, blame = model("the plot was", "superb"), model("the plot was", "awful")
    assert praise > blame

    words = ["train", "--method", "rloo", "--reward", str(folder / "reward-model")]
    words += ["--steps", "4", "--eval-every", "2", "--kl-samples", "8", "--seed", "2"]
    main([*words, "--out", str(folder / "mine")])
    out = capsys.readouterr().out
    assert re.search(r"step +reward +reward - βKL +entropy +tokens +equal +accuracy +KL", out)
    run = Run(folder / "mine")
    last = run.records()[-1]
    assert {"proxy/policy", "score/policy", "on_policy/reward"} <= last.values.keys()
    main(["runs", "list"])
    listed = capsys.readouterr().out
    assert "rloo, reward reward-model" in listed and "unreadable" not in listed
    main(["runs", "report", str(folder / "mine")])
    assert (folder / "mine" / "report.html").exists()


def test_nothing_is_overwritten_and_other_settings_are_no_options(folder, capsys):
    (folder / "rm").mkdir()
    (folder / "rm" / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main(["reward-model", "train", "--out", str(folder / "rm")])
    assert "rm: exists already. Give another folder with --out." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["reward-model", "train", "--beta", "1"])
    assert "--beta" in capsys.readouterr().err


def test_a_folder_that_is_no_reward_model_is_said(folder, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--method", "rloo", "--reward", str(folder / "none"), "--steps", "1"])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "none" in err and "reward-model train" in err


def test_what_rates_answers_in_training_is_measured_beside_the_truth(folder):
    """The mean reward of the evaluation's answers by the model: not the truth's."""
    torch.manual_seed(0)
    main(["reward-model", "train", "--limit", "100", "--epochs", "1"])
    words = ["train", "--method", "online-dpo", "--reward", str(folder / "reward-model")]
    main(
        [
            *words,
            "--steps",
            "2",
            "--eval-every",
            "1",
            "--kl-samples",
            "16",
            "--out",
            str(folder / "x"),
        ]
    )
    first = Run(folder / "x").records()[0]
    assert first["proxy/policy"] != pytest.approx(first["score/policy"], abs=1e-3)
    assert first["score/policy"] == first["score/reference"]
