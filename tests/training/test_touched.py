"""A run's folder that was touched is found out, and what is said about it helps."""

import json
import logging
import random
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import run_cli
from kills import Killed

from dpo_lab.models.loading import load_model
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.control import RunControl
from dpo_lab.training.learner import Learner
from dpo_lab.training.loop import train
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import prepare
from dpo_lab.training.start_or_resume import open_or_create
from dpo_lab.training.sweep import table
from dpo_lab.ui.workbench.run_store import RunStore

CONFIG = TrainConfig(
    steps=6, batch_pairs=4, limit=24, eval_every=3, eval_pairs=4, kl_samples=4, sample_prompts=2,
    max_new_tokens=4, checkpoint_every=4, learning_rate=1e-3,
)  # fmt: skip
LINES = ("metrics.jsonl", "timing.jsonl", "samples.jsonl")
RECORDS = ("metrics.jsonl", "samples.jsonl")
REMEDY = "[Rr]emove the folder checkpoint, and a resumed run starts again"


def go_on(run: Run) -> list:
    job = prepare(CONFIG)
    return list(train(job, run=open_or_create(run, job)))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run that is done, and the same killed in step 6, two steps after its checkpoint."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPO_LAB_CACHE", str(folder / "cache"))
        go_on(Run(folder / "done"))
        step = Learner.take_step

        def killed(self):
            if self.step == 5:
                raise Killed
            return step(self)

        patch.setattr(Learner, "take_step", killed)
        with pytest.raises(Killed):
            go_on(Run(folder / "killed"))
    (folder / "killed" / "summary.json").unlink()
    return folder


@pytest.fixture
def whole(made) -> Run:
    return Run(made / "done")


@pytest.fixture
def run(made, tmp_path) -> Run:
    return Run(shutil.copytree(made / "killed", tmp_path / "run"))


def flip(path: Path, place: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def places(path: Path, count: int) -> list[int]:
    """Both ends, and places spread over the file."""
    size = path.stat().st_size
    spread = {round(k * (size - 1) / (count - 1)) for k in range(count)}
    return sorted(spread | set(range(min(16, size))))


TOUCHED = ["model.safetensors", "trainer.pt", "checksums.json"]


@pytest.mark.parametrize("name", [*(f"checkpoint/{n}" for n in TOUCHED), "config.json",
                                  "environment.json"])  # fmt: skip
def test_a_bit_that_flips_anywhere_is_found(run, name):
    path, rng = run.path / name, random.Random(0)
    run.check()
    for place in places(path, 25):
        before = path.read_bytes()
        flip(path, place, rng.randrange(8))
        with pytest.raises(ValueError, match=f"{Path(name).name}: .*{REMEDY}"):
            run.check()
        path.write_bytes(before)
    path.write_bytes(before[:-2])
    with pytest.raises(ValueError, match=REMEDY):
        run.check()
    path.write_bytes(before)
    run.check()


@pytest.mark.parametrize("name", LINES)
def test_a_bit_that_flips_in_any_line_until_the_checkpoint_is_found_and_placed(run, name):
    path, rng = run.path / name, random.Random(1)
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= 4]
    assert len(kept) >= 4
    for place in range(0, sum(map(len, kept)), 37):
        before = path.read_bytes()
        number = before[:place].count(b"\n") + 1
        flip(path, place, rng.randrange(8))
        with pytest.raises(ValueError, match=f"{name}: line {number} of {len(kept)} is not .*"):
            run.check()
        with pytest.raises(ValueError, match=f"line {number} of .*those before it agree.*{REMEDY}"):
            run.samples() if name == "samples.jsonl" else run.records()
        path.write_bytes(before)
    run.records(), run.samples()


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("how", ["hole", "insert", "swap", "cut", "gone"])
def test_lines_that_are_missing_or_more_are_found(run, name, how):
    path = run.path / name
    lines = path.read_text().splitlines(keepends=True)
    lines = {
        "hole": lines[:1] + lines[2:],
        "insert": lines[:2] + lines[1:],
        "swap": [lines[1], lines[0], *lines[2:]],
        "cut": lines[:2],
        "gone": [],
    }[how]
    path.write_text("".join(lines))
    number = {"hole": 2, "insert": 3, "swap": 1, "cut": 3, "gone": 1}[how]
    with pytest.raises(ValueError, match=f"{name}: line {number} of .*{REMEDY}"):
        go_on(run)


def test_touched_folders_are_left_as_they_are_and_the_remedy_works(run, whole):
    flip(run.path / "checkpoint" / "model.safetensors", 2000)
    flip(run.path / "metrics.jsonl", 700)
    before = {name: (run.path / name).read_bytes() for name in LINES}
    with pytest.raises(ValueError, match=REMEDY):
        go_on(run)
    assert before == {name: (run.path / name).read_bytes() for name in LINES}
    shutil.rmtree(run.path / "checkpoint")
    go_on(run)
    for name in RECORDS:
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_what_comes_after_the_checkpoint_is_computed_again_whatever_became_of_it(run, whole):
    path = run.path / "metrics.jsonl"
    assert [record.step for record in run.records()] == list(range(6))
    place = len(b"".join(path.read_bytes().splitlines(keepends=True)[:5]))
    flip(path, place + 3, 5)
    with path.open("ab") as file:
        file.write(b"\0\0 no line at all\n" + b'{"step": 9}\n')
    go_on(run)
    for name in RECORDS:
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_a_missing_configuration_of_the_checkpoint_is_no_obstacle(run, whole):
    (run.path / "checkpoint" / "config.json").unlink()
    go_on(run)
    assert (run.path / "checkpoint" / "config.json").exists()
    for name in RECORDS:
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_a_folder_of_an_earlier_version_opens_which_is_said_once(run, whole, caplog):
    (run.path / "checkpoint" / "checksums.json").unlink()
    with caplog.at_level(logging.WARNING):
        go_on(run)
    said = [r.getMessage() for r in caplog.records if "carries no checksums" in r.getMessage()]
    assert len(said) == 1 and str(run.path) in said[0]
    for name in RECORDS:
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes()
    run.check()


@pytest.mark.parametrize("how", ["broken", "hole", "twice"])
def test_without_checksums_what_can_be_seen_is_seen(run, how):
    (run.path / "checkpoint" / "checksums.json").unlink()
    path = run.path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    if how == "broken":
        lines[2] = lines[2][:40] + "\n"
    else:
        lines = lines[:2] + (lines[3:] if how == "hole" else lines[1:])
    path.write_text("".join(lines))
    words = {"broken": "line 3 is broken", "hole": "step 3 follows step 1"}
    with pytest.raises(ValueError, match=words.get(how, "step 1 follows step 1")):
        go_on(run)


def test_a_policy_that_was_touched_does_not_answer(run):
    policy = load_model(run.checkpoint, device="cpu")
    assert policy.name == str(run.checkpoint)
    flip(run.checkpoint / "model.safetensors", -5)
    with pytest.raises(ValueError, match=r"model\.safetensors: is not what was.*Take a copy"):
        load_model(run.checkpoint, device="cpu")
    (run.checkpoint / "checksums.json").unlink()
    load_model(run.checkpoint, device="cpu")


def one_line(said: tuple[int, str, str], name: str) -> None:
    code, _, error = said
    assert code == 2 and len(error.splitlines()) == 1 and error.startswith("dpo-lab: error")
    assert name in error


ODD = {
    "settings that are a list": ("config.json", "[1, 2]"),
    "a setting that is a word": ("config.json", '{"beta": "much"}'),
    "a loss that is null": ("config.json", '{"loss": null}'),
    "an unknown setting": ("config.json", '{"betta": 1}'),
    "no settings at all": ("config.json", "{"),
    "an end that is a list": ("summary.json", "[]"),
    "an end that says nothing": ("summary.json", "{}"),
    "a line that is a list": ("metrics.jsonl", '[1]\n{"step": 1}\n'),
    "a step without a loss": ("metrics.jsonl", '{"step": 1}\n{"step": 2}\n'),
    "an answer of another kind": ("samples.jsonl", '{"step": 1, "word": 2}\n'),
    "facts that are a number": ("environment.json", "3"),
    "no facts": ("environment.json", None),
}


@pytest.mark.parametrize(("name", "text"), ODD.values(), ids=ODD)
def test_what_has_the_wrong_shape_is_one_line_and_breaks_no_other_run(
    made, run, capsys, name, text
):
    shutil.rmtree(run.path / "checkpoint")  # without checksums: as it came from elsewhere
    (run.path / name).unlink(missing_ok=True)
    if text is not None:
        (run.path / name).write_text(text)
    shutil.copytree(made / "done", run.path.parent / "other")
    one_line(run_cli(capsys, "runs", "report", run.path), name)
    if name in RECORDS:
        again = Run(shutil.copytree(run.path, run.path.parent / "again"))
        assert run_cli(capsys, "train", "--resume", "--out", again.path)[0] == 0
        assert [record.step for record in again.records()] == list(range(7)) and again.samples()
    else:
        one_line(run_cli(capsys, "train", "--resume", "--out", run.path), name)
    code, out, error = run_cli(capsys, "runs", "list", run.path.parent)
    assert code == 0 and "other" in out and "sigmoid" in out
    shelf = RunStore(run.path.parent)
    assert "other" in shelf.runs
    if name in ("config.json", "metrics.jsonl", "summary.json"):
        assert "unreadable" in out and "run is not readable" in error
        assert len(shelf.unread) == 1 and "run" not in shelf.runs


def test_what_says_too_little_is_one_line(made, run, capsys):
    (run.path / "summary.json").write_text('{"state": "done", "outcome": "good"}')
    for command in ("report", "show"):
        said = run_cli(capsys, "runs", command, run.path)
        one_line(said, "has not the shape that the lab writes")
    (run.path / "summary.json").unlink()
    (run.path / "environment.json").write_text("{}")
    one_line(run_cli(capsys, "train", "--resume", "--out", run.path), "weights changed since")


def test_a_sweep_s_table_has_the_other_runs(made, tmp_path, caplog):
    for name in ("seed=0", "seed=1"):
        Run(shutil.copytree(made / "done", tmp_path / name)).finish({"outcome": None})
    flip(tmp_path / "seed=1" / "metrics.jsonl", 300)
    configs = {f"seed={seed}": replace(CONFIG, seed=seed) for seed in (0, 1)}
    whole, touched = table(configs, tmp_path)
    assert whole["last_loss"] > 0 and touched["last_loss"] is None and touched["seed"] == 1
    assert "seed=1: its numbers are left out" in caplog.text and "line 1 of" in caplog.text


FULL = """
import resource, sys
from dpo_lab.cli.commands import main

{before}
main("train --resume --out {out} --steps 4 --batch-pairs 4 --limit 16 --eval-every 0 "
     "--eval-pairs 0 --checkpoint-every 2".split())
"""


def test_a_full_disk_in_a_checkpoint_is_one_line_and_the_one_before_stays(tmp_path):
    """No file may grow beyond 500 kB: the model's 400 kB fit, the optimiser's 800 kB do not."""
    out = tmp_path / "run"

    def run_with(before: str):
        code = FULL.format(before=textwrap.dedent(before), out=out)
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))"
    full = run_with(limit)
    assert full.returncode == 2 and "Traceback" not in full.stderr
    last = full.stderr.strip().splitlines()[-1]
    assert "a checkpoint of step 2 cannot be written" in last and "--resume" in last
    run = Run(out)
    assert not (out / "checkpoint.next").exists() and run.summary["state"] == "failed"
    assert run_with("").returncode == 0
    assert run.summary["state"] == "done" and [r.step for r in run.records()] == [1, 2, 3, 4]
    before = (run.checkpoint / "trainer.pt").read_bytes()
    assert len(before) > 500_000
    run.check()


def test_live_settings_may_be_others_in_a_resumed_run_and_the_records_say_so(tmp_path, capsys):
    """The advice after a breakdown: a learning rate that breaks it, then a lower one."""
    out = tmp_path / "run"
    base = ("train", "--resume", "--out", out)
    code, _, error = run_cli(
        capsys, *base, "--steps", 6, "--batch-pairs", 4, "--limit", 24, "--eval-every", 0,
        "--eval-pairs", 0, "--checkpoint-every", 1, "--lr", "1e30", "--schedule", "constant",
    )  # fmt: skip
    assert code == 2 and "(--resume --lr)" in error
    code, _, error = run_cli(capsys, *base)
    assert code == 2, "the same again breaks again"
    code, _, error = run_cli(capsys, *base, "--lr", "1e-4", "--beta", "0.4")
    assert code == 0, error
    run = Run(out)
    records = run.records()
    assert run.summary["state"] == "done" and records[-1].step == 6
    assert {r.learning_rate for r in records} == {1e-4} and {r.beta for r in records} == {0.4}
    assert records[0]["change/learning_rate"] == 1e-4
    assert run.settings["learning_rate"] == 1e30, "what it was begun with stays"
    assert run.live.as_dict() == {"beta": 0.4, "learning_rate": 1e-4}
    code, _, error = run_cli(capsys, *base, "--lr", "1e-3")
    assert code == 2 and "no step is left" in error


def test_a_live_setting_goes_back_to_what_the_run_was_begun_with_if_that_is_typed(tmp_path, capsys):
    """1e-3, then 1e-4 from step 3 on, then 1e-3 again: which is what config.json still has."""
    out = tmp_path / "run"
    control = RunControl()
    job = prepare(CONFIG)
    for record in train(job, run=open_or_create(Run(out), job), control=control):
        if record.step == 2:
            control.set(learning_rate=1e-4)
        if record.step == 4:
            control.stop()
    assert Run(out).live.learning_rate == 1e-4
    code, _, error = run_cli(capsys, "train", "--resume", "--out", out, "--lr", "1e-3")
    assert code == 0, error
    marks = [record.get("change/learning_rate") for record in Run(out).records()]
    assert marks == [None, None, None, 1e-4, None, 1e-3, None]
    code, _, error = run_cli(capsys, "train", "--resume", "--out", out, "--batch-pairs", "8")
    assert code == 2 and "--batch-pairs 8: this run has 4" in error
