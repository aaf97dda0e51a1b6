"""Which command is meant: help, version, slips of the pen; and what is imported for it."""

import json
import re
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import version
from pkgutil import resolve_name
from typing import get_type_hints

import pytest

from dpo_lab.cli.commands import COMMANDS, main
from dpo_lab.cli.settings import GROUPS, options
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.runs import Run

pytestmark = pytest.mark.slow

HEAVY = ("torch", "transformers", "datasets", "peft", "plotly", "ipywidgets")


def loaded_by(*arguments: str) -> tuple[set[str], str]:
    """The heavy packages that a command imports, and what it prints, in a process of its own."""
    code = (
        "import sys; from dpo_lab.cli.commands import main\n"
        f"try: main({list(arguments)!r})\nexcept SystemExit: pass\n"
        f"print('loaded', *(name for name in {HEAVY!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *lines, last = done.stdout.splitlines()
    return set(last.split()[1:]), "\n".join(lines) + done.stderr


@pytest.fixture
def runs(tmp_path):
    run = Run.create(tmp_path / "runs" / "mine", TrainConfig(loss="ipo", seed=3), {})
    line = {"step": 1, "epoch": 0.1, "pairs_seen": 9, "beta": 0.1, "learning_rate": 0.1}
    (run.path / "metrics.jsonl").write_text(json.dumps(line | {"kl/per_token": 0.25}) + "\n")
    run.finish({"state": "stopped"})
    return tmp_path / "runs"


def test_help_version_and_a_slip_load_nothing_heavy():
    for words, shown in (
        (["--help"], "train a policy on preference pairs"),
        (["--version"], f"dpo-lab {version('dpo-lab')}"),
        (["trian"], "Did you mean 'train'?"),
        (["runs", "--help"], "runs list"),
        (["runs"], "runs show"),
    ):
        loaded, printed = loaded_by(*words)
        assert shown in printed and not loaded, words


def test_runs_are_listed_and_shown_without_torch(runs):
    loaded, printed = loaded_by("runs", "list", str(runs))
    assert not loaded
    (row,) = [line for line in printed.splitlines() if "mine" in line]
    assert row.replace("│", " ").split() == [
        "mine", "stopped", "micro", "reviews", "ipo", "0.100", "1", "–", "0.250", "–"
    ]  # fmt: skip
    loaded, printed = loaded_by("runs", "show", str(runs / "mine"))
    assert not loaded and '"seed": 3' in printed


def test_help_of_a_command_that_trains_needs_no_model_library():
    """Torch alone, since a configuration is checked by the losses themselves."""
    for name in ("train", "sweep", "estimate", "demo", "losses"):
        loaded, printed = loaded_by(name, "--help")
        assert loaded <= {"torch"}, name
        assert "--help" in printed


def test_what_is_said_of_a_command_is_no_docstring_of_python(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert "Union" not in out
    for name, (place, about) in COMMANDS.items():
        assert f"  {name:<20}{about}\n" in out
        assert resolve_name(f"dpo_lab.cli.{place}").__doc__


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("trian", "train"), ("swep", "sweep"), ("logp", "logps"), ("runs lsit", "runs list")],
)
def test_a_mistyped_command_is_answered_with_the_one_that_is_meant(capsys, typed, meant):
    with pytest.raises(SystemExit) as stop:
        main(typed.split())
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1
    assert f"'{typed}': no such command. Did you mean '{meant}'?" in err


def helped(capsys, name: str) -> str:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    return capsys.readouterr().out


BOX = re.compile(r"^\W*(\w+) options \W*$", re.M)


def test_help_of_train_has_groups_examples_and_defaults(capsys):
    out = helped(capsys, "train")
    assert BOX.findall(out) == [
        "data", "method", "loss", "optimiser", "LoRA", "rows", "evaluation", "device"
    ]  # fmt: skip
    assert out.count("  dpo-lab train --") == 4
    parts = BOX.split(out)[1:]
    by_box = dict(zip(parts[::2], parts[1::2], strict=True))
    for option, box in (
        ("--split", "data"), ("--kl-unit", "method"),
        ("--beta", "loss"), ("--lr", "optimiser"), ("--lora-alpha", "LoRA"),
        ("--on-bad-rows", "rows"), ("--kl-samples", "evaluation"), ("--precision", "device"),
    ):  # fmt: skip
        assert re.search(rf"^\W*{option} ", by_box[box], re.M), option
    words = " ".join(re.sub("[│|]", " ", out).split())
    assert "automatic" not in words and "None" not in words
    assert "by default 1e-3 for micro, 3e-5 for smollm2" in words
    assert "(default: 16)" in words and "by default one epoch." in words


def test_every_setting_stands_in_one_group_with_its_text():
    boxes = get_type_hints(options())
    assert list(boxes) == list(GROUPS.values())
    found = {}
    for box in boxes.values():
        found |= get_type_hints(box, include_extras=True)
    assert list(found) == [each.name for each in fields(TrainConfig)]
    assert all(kind.__metadata__[-1].help for kind in found.values())


def test_an_example_of_the_help_is_understood(capsys):
    """Every option of every example is one of the command's."""
    for name, count in (("train", 4), ("sweep", 4)):
        examples = re.findall(rf"^  dpo-lab {name} (.*)$", helped(capsys, name), re.M)
        assert len(examples) == count
        for example in examples:
            options = re.findall(r"--[a-z-]+", example)
            assert all(f"{option} " in helped(capsys, name) for option in options)


def test_a_sweep_takes_the_short_name_of_the_learning_rate(capsys, tmp_path):
    words = "sweep --lr 1e-3 1e-2 --beta 0 --steps 1 --out"
    with pytest.raises(SystemExit):
        main([*words.split(), str(tmp_path)])
    assert "beta=0.0: must be" in capsys.readouterr().err


def test_an_option_of_a_sweep_without_a_value_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "--lora-rank", "--beta", "1", "2"])
    assert stop.value.code == 2
    assert "--lora-rank: no value. Give one or more." in capsys.readouterr().err


def test_a_run_without_held_out_pairs_says_the_loss_of_steps_alone(tmp_path, capsys):
    """The record of step 0 has neither a loss nor anything on held-out pairs."""
    words = ["--steps", "3", "--batch-pairs", "5", "--eval-every", "2", "--held-out", "0"]
    main(["train", *words, "--limit", "40", "--out", str(tmp_path / "run")])
    assert Run(tmp_path / "run").finished
    assert "step 0" not in capsys.readouterr().out
