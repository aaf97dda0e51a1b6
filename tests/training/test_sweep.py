from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from dpo_lab import TrainConfig
from dpo_lab.cli.commands import main
from dpo_lab.training import sweep as sweeping
from dpo_lab.training.files import write_table
from dpo_lab.training.loop import train
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import prepare
from dpo_lab.training.start_or_resume import open_or_create
from dpo_lab.training.sweep import _processes, grid, sweep

BASE = TrainConfig(steps=6, batch_pairs=4, eval_every=3, eval_pairs=8, kl_samples=5)


def test_a_grid_is_every_combination_by_name() -> None:
    configs = grid(BASE, {"beta": [0.1, 5.0], "loss": ["sigmoid", "ipo"], "seed": [3]})
    assert list(configs) == [
        "beta=0.1,loss=sigmoid,seed=3", "beta=0.1,loss=ipo,seed=3",
        "beta=5,loss=sigmoid,seed=3", "beta=5,loss=ipo,seed=3",
    ]  # fmt: skip
    last = configs["beta=5,loss=ipo,seed=3"]
    assert (last.beta, last.loss, last.seed, last.steps) == (5.0, "ipo", 3, 6)
    (name,) = grid(BASE, {"data": ["../a b/c.jsonl"]})
    assert "/" not in name and " " not in name


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "nothing varies"),
        ({"betta": [1]}, "betta: no such setting"),
        ({"beta": []}, "one or more different"),
        ({"beta": [1.0, 1.0]}, "one or more different"),
        ({"beta": [-1.0]}, "beta=-1.0: must be"),
    ],
)
def test_a_wrong_grid_is_refused_in_words(values, words) -> None:
    with pytest.raises(ValueError, match=words):
        grid(BASE, values)


def test_a_sweep_is_run_once_scores_the_reference_once_and_tells_what_the_runs_tell(tmp_path):
    configs = grid(BASE, {"beta": [0.1, 1.0], "loss": ["sigmoid", "ipo"]})
    told = []
    rows = sweep(configs, tmp_path, done=lambda *what: told.append(what))
    assert [row["run"] for row in rows] == list(configs)
    assert sorted(count for _, count, _ in told) == [1, 2, 3, 4]
    for row in rows:
        run = Run.open(tmp_path / row["run"])
        assert row["kl/per_token"] == run.records()[-1]["kl/per_token"]
        assert row["score"] == run.summary["outcome"]["after"]["mean"]
        assert run.environment["reference"]["computed"] == 0
        assert (row["beta"], row["loss"]) == (run.config.beta, run.config.loss)
        assert row["last_loss"] == run.records()[-1]["loss"]
    assert "steps" not in rows[0] and "seed" not in rows[0]
    before = {name: (tmp_path / name / "summary.json").stat().st_mtime_ns for name in configs}
    assert sweep(configs, tmp_path) == rows
    after = {name: (tmp_path / name / "summary.json").stat().st_mtime_ns for name in configs}
    assert after == before
    with pytest.raises(ValueError, match="was begun with steps=6, not 7"):
        sweep(grid(TrainConfig(**BASE.as_dict() | {"steps": 7}), {"beta": [0.1, 1.0], "loss": ["sigmoid", "ipo"]}), tmp_path)  # noqa: E501  # fmt: skip
    with write_table(rows, tmp_path / "t.csv").open() as file:
        assert [float(row["kl/per_token"]) for row in csv.DictReader(file)] == [
            row["kl/per_token"] for row in rows
        ]
    assert write_table(rows, tmp_path / "t.parquet").stat().st_size > 0


@pytest.mark.slow
def test_a_run_that_was_begun_with_other_settings_is_not_taken_for_it(tmp_path) -> None:
    """What is off is a value too: a run of LD-DPO is none of DPO."""
    name, asked = next(iter(grid(TrainConfig(), {"beta": [0.1]}).items()))
    for other in ({"ld_alpha": 0.3}, {"label_smoothing": 0.2}, {"use_weighting": True}):
        begun = replace(asked, **other).resolved()
        folder = tmp_path / str(other)
        Run.create(folder / name, begun, {}).finish({"state": "done", "outcome": None})
        with pytest.raises(ValueError, match=f"was begun with {next(iter(other))}="):
            sweep({name: asked}, folder)


def test_two_combinations_of_one_folder_are_refused() -> None:
    with pytest.raises(ValueError, match="two combinations would have this folder"):
        grid(TrainConfig(), {"loss": ["sigmoid + 0.2 sft", "sigmoid + 0.2*sft"]})


KILLED = """
import sys
from pathlib import Path
from dpo_lab import TrainConfig
from dpo_lab.training.sweep import grid, sweep

def wait(*finished):
    print(*finished, flush=True)
    sys.stdin.read()  # nothing is begun before this returns

config = TrainConfig(steps=6, batch_pairs=4, eval_every=3, eval_pairs=8, kl_samples=5)
sweep(grid(config, {"beta": [0.1, 1.0, 5.0]}), Path(sys.argv[1]), workers=1, done=wait)
"""


def test_killed_in_the_middle_it_goes_on_without_redoing_a_finished_run(tmp_path) -> None:
    """Of three runs one is finished, one has a checkpoint of step 2, one is not begun."""
    begun = prepare(replace(BASE, beta=5.0))
    for record in train(begun, run=open_or_create(Run(tmp_path / "beta=5"), begun)):
        if record.step == 2:
            break
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert killed.stdout.readline() == "beta=0.1 1 3\n"
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    summaries = sorted(tmp_path.glob("*/summary.json"))
    (done,) = [path for path in summaries if Run(path.parent).finished]
    time = done.stat().st_mtime_ns
    words = ["--beta", "0.1", "1", "5", "--steps", "6", "--eval-every", "3", "--kl-samples", "5"]
    words += ["--eval-pairs", "8", "--batch-pairs", "4", "--out", str(tmp_path), "--workers", "1"]
    again = subprocess.run(
        [sys.executable, "-m", "dpo_lab", "sweep", *words],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert done.parent.name == "beta=0.1" and done.stat().st_mtime_ns == time
    for name in ("beta=0.1", "beta=1", "beta=5"):
        assert [r.step for r in Run.open(tmp_path / name).records()] == list(range(7))
    with (tmp_path / "sweep.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3
    assert (tmp_path / "sweep.html").stat().st_size > 1e6


def test_processes_are_as_many_as_suit_the_devices_of_the_runs(monkeypatch):
    """Also where the machine has a device that no run uses."""
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cpu, auto = replace(BASE, device="cpu"), BASE
    assert [_processes(some) for some in ([cpu, cpu], [auto], [cpu, auto])] == [5, 1, 1]


def test_a_folder_of_other_files_is_found_out_before_anything_is_computed(tmp_path, monkeypatch):
    (tmp_path / "beta=0.1").mkdir()
    (tmp_path / "beta=0.1" / "notes.txt").write_text("")
    monkeypatch.delattr(sweeping, "_score_references")
    with pytest.raises(FileExistsError, match="beta=0.1: holds no run but other files"):
        sweep(grid(BASE, {"beta": [0.1]}), tmp_path)


def test_what_varies_is_checked_with_its_values_and_not_with_its_default(tmp_path, monkeypatch):
    """`--simpo-gamma` suits both losses of the grid, and not the loss that is the default."""
    asked = {}
    monkeypatch.setattr(sweeping, "sweep", lambda configs, *_, **__: asked.update(configs) or [])
    words = ["sweep", "--loss", "simpo", "simpo + 0.2 sft", "--simpo-gamma", "1", "--beta", "2"]
    main([*words, "--out", str(tmp_path)])
    found = [(one.loss, one.simpo_gamma, one.beta) for one in asked.values()]
    assert found == [("simpo", 1.0, 2.0), ("simpo + 0.2 sft", 1.0, 2.0)]
    with pytest.raises(SystemExit):
        main(["sweep", "--loss", "simpo", "sigmoid", "--simpo-gamma", "1", "--out", str(tmp_path)])
