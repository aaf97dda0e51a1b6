"""Runs in processes of their own, started from here: what they say, and that they outlive us."""

import os
import signal
import subprocess
import sys

import pytest
from real_processes import until

from dpo_lab.training.config import TrainConfig
from dpo_lab.training.followed import FollowedRun
from dpo_lab.training.heartbeat import ALIVE
from dpo_lab.training.launched import LaunchedRun
from dpo_lab.training.runs import Run

pytestmark = pytest.mark.slow
SETTINGS = {"batch_pairs": 4, "limit": 80, "kl_samples": 5, "eval_every": 20, "device": "cpu"}


def launched(folder, processes=1, strategy="ddp", **settings) -> LaunchedRun:
    return LaunchedRun(TrainConfig(**SETTINGS | settings), folder, processes, strategy).start()


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_in_two_processes_is_changed_and_resumed(tmp_path, strategy):
    run = launched(tmp_path / "run", 2, strategy, steps=5000)
    assert run.state == "preparing" and run.live.beta == 0.1
    run.control.set(beta=0.6)  # kept back until the run has begun
    run.reach(3, timeout=120)
    assert run.state == "training" and run.processes == 2
    until(lambda: run.live.beta == 0.6, "beta is not changed")
    run.stop()
    assert run.wait(60).state == "stopped"
    settings = Run(tmp_path / "run").settings
    assert settings["batch_pairs"] == 4 and settings["steps"] == 5000 and settings["beta"] == 0.1

    last = run.records[-1].step
    parts = tmp_path / "run" / "checkpoint" / "optimizer"
    assert parts.exists() == (strategy == "fsdp")
    again = launched(tmp_path / "run", 1, steps=5000)
    assert len(again.records) == len(run.records)
    again.reach(last + 5, timeout=120)
    assert again.live.beta == 0.6, "the beta that it ended with"
    again.end()
    assert again.state == "stopped" and again.records[-1].step >= last + 5


def test_what_it_fails_with_is_said_here(tmp_path):
    broken = launched(tmp_path / "loss", 2, steps=50, learning_rate=1e30)
    with pytest.raises(RuntimeError, match="step [0-9]+: loss is (nan|inf) at beta 0.1"):
        broken.wait(120)
    assert broken.state == "failed"
    nowhere = launched(tmp_path / "nowhere", data="nowhere.jsonl")
    with pytest.raises(RuntimeError, match="nowhere.jsonl"):
        nowhere.wait(120)
    assert nowhere.state == "failed" and not (tmp_path / "nowhere").exists()


def test_a_run_that_is_stopped_while_it_is_prepared(tmp_path):
    run = launched(tmp_path / "run", 2)
    run.stop()
    assert run.wait(60).state == "stopped" and not (tmp_path / "run").exists()


def test_a_run_outlives_who_launched_it(tmp_path):
    folder = tmp_path / "run"
    code = f"""
from pathlib import Path
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.launched import LaunchedRun
run = LaunchedRun(TrainConfig(steps=100000, **{SETTINGS!r}), Path({str(folder)!r}), 1).start()
run.wait()
"""
    kernel = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    until((folder / ALIVE).exists, "it never begins")
    kernel.send_signal(signal.SIGKILL)
    kernel.wait()
    found = FollowedRun(folder).start()
    found.reach(found.records[-1].step + 50 if found.records else 50, timeout=60)
    found.stop()
    assert found.wait(60).state == "stopped"
