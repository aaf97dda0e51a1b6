"""What ends a command ends all of it: real processes, real signals, exit codes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from real_processes import children, running, until

from dpo_lab.training.runs import Run
from dpo_lab.training.workers import GRACE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="children are read from /proc"),
]
LONG = ["--steps", "100000", "--eval-every", "0", "--batch-pairs", "4", "--checkpoint-every", "5"]


@pytest.fixture(autouse=True)
def _signals_are_heard():
    """What is started in the background ignores Ctrl-C, under nohup SIGHUP; so do its children."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def begun(command: str, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "dpo_lab", command, *words],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def stepping(*folders: Path) -> bool:
    """Whether the runs train, each with a checkpoint."""
    return all((folder / "checkpoint" / "trainer.pt").exists() for folder in folders)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGKILL"])
def test_a_sweeps_processes_end_with_it_and_leave_runs_that_go_on(tmp_path, name):
    number = getattr(signal, name)
    launcher = begun("sweep", "--beta", "0.1", "1", "--workers", "2", *LONG, "--out", str(tmp_path))
    folders = [tmp_path / "beta=0.1", tmp_path / "beta=1"]
    until(lambda: stepping(*folders) or launcher.poll() is not None, "the runs have begun")
    workers = children(launcher.pid)
    assert len(workers) >= 2
    launcher.send_signal(number)  # to it alone: a kill from elsewhere, no key in a terminal
    said, _ = launcher.communicate(timeout=300)
    until(lambda: not any(map(running, workers)), f"processes that outlive {name}")
    if name == "SIGKILL":
        assert launcher.returncode == -number
    else:
        assert launcher.returncode == 128 + number
        assert said.splitlines()[-1] == f"dpo-lab: ended by {name}", said
    for folder in folders:
        run = Run(folder)
        run.lock()  # free again
        run.unlock()
        assert run.summary["state"] == "stopped" and stepping(folder)
        assert run.records()[-1].step == run.summary["step"], "the checkpoint is of the last step"


def test_the_processes_have_less_than_five_seconds():
    assert GRACE + 1 <= 4


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_run_that_a_signal_ends_says_how_it_goes_on_and_by_which_it_was(tmp_path, name):
    number = getattr(signal, name)
    train = begun("train", *LONG, "--out", str(tmp_path / "run"))
    until(lambda: stepping(tmp_path / "run") or train.poll() is not None, "the run has begun")
    train.send_signal(number)
    said, _ = train.communicate(timeout=300)
    assert train.returncode == 128 + number, said
    assert "Stopped. Go on with: dpo-lab train --resume --out" in said
    assert Run(tmp_path / "run").summary["state"] == "stopped"


def test_a_failed_run_of_a_sweep_is_named_at_the_end_and_the_others_go_on(tmp_path):
    words = ["--learning-rate", "1e30", "1e-3", "2e-3", "--workers", "1", "--steps", "3"]
    words += ["--eval-every", "0", "--batch-pairs", "4", "--out", str(tmp_path)]
    done = begun("sweep", *words)
    said, _ = done.communicate(timeout=300)
    assert done.returncode == 3, said
    last = said.splitlines()[-1]
    assert last.startswith("dpo-lab: error: 1 run failed: learning_rate=1e+30: ")
    runs = {path.parent.name: Run(path.parent) for path in tmp_path.glob("*/config.json")}
    assert runs["learning_rate=1e+30"].summary["state"] == "failed"
    assert runs["learning_rate=0.001"].finished and runs["learning_rate=0.002"].finished
    assert len((tmp_path / "sweep.csv").read_text().splitlines()) == 3


def test_a_process_that_is_killed_is_a_failed_run_and_another_takes_its_place(tmp_path):
    launcher = begun(
        "sweep", "--steps", "300", "3", "--workers", "1", "--eval-every", "0", "--checkpoint-every",
        "5", "--batch-pairs", "4", "--out", str(tmp_path),
    )  # fmt: skip
    until(lambda: stepping(tmp_path / "steps=300") or launcher.poll() is not None, "it has begun")
    for pid in children(launcher.pid):
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    said, _ = launcher.communicate(timeout=300)
    assert launcher.returncode == 3, said
    assert "1 run failed: steps=300: its process ended with -9" in said
    assert Run(tmp_path / "steps=3").finished
