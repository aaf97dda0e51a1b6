"""`dpo-lab train --processes`: one rank ends, and so does the run; it resumes with any number."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from real_processes import ranks, running, until

from dpo_lab.training.runs import Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="children are read from /proc"),
]
SETTINGS = ["--steps", "60", "--eval-every", "20", "--checkpoint-every", "10", "--limit", "300"]
SETTINGS += ["--batch-pairs", "6", "--kl-samples", "9", "--device", "cpu"]
FAULT = """
import os
if os.environ.get("RANK") == "1":
    import torch
    step, done = torch.optim.AdamW.step, []
    def broken(self, *arguments, **options):
        done.append(1)
        if len(done) == 5:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return step(self, *arguments, **options)
    torch.optim.AdamW.step = broken
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return os.environ | {
        "HF_HUB_OFFLINE": "1",
        "DPO_LAB_CACHE": str(tmp_path_factory.mktemp("cache")),
        "OMP_NUM_THREADS": "1",
    }


def begun(environment, folder: Path, processes: int, *words: str) -> subprocess.Popen:
    words = ["--out", str(folder), "--processes", str(processes), *words]
    return subprocess.Popen(
        [sys.executable, "-m", "dpo_lab", "train", *words],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def lines(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture(scope="module")
def uninterrupted(environment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    launcher = begun(environment, folder, 2, *SETTINGS)
    output, _ = launcher.communicate()
    assert launcher.returncode == 0, output
    assert output.count("Report  ") == 1, "only the first process speaks"
    return folder


@pytest.mark.parametrize(
    "strategy, rank, step, resumed_with",
    [("ddp", 1, 15, 2), ("ddp", 0, 33, 1), ("ddp", 1, 47, 3), ("fsdp", 1, 25, 1)],
)
def test_a_killed_rank_ends_the_run_and_it_resumes(
    environment, uninterrupted, tmp_path, strategy, rank, step, resumed_with
):
    folder = tmp_path / "run"
    launcher = begun(environment, folder, 2, *SETTINGS, "--strategy", strategy)
    until(lambda: lines(folder) > step, f"step {step} is never done")
    both = ranks(launcher.pid)
    os.kill(both[rank], signal.SIGKILL)
    killed = time.monotonic()
    output, _ = launcher.communicate()
    assert time.monotonic() - killed < 30
    assert launcher.returncode == 128 + signal.SIGKILL
    assert f"rank {rank} of 2 processes was ended by SIGKILL" in output
    assert not any(map(running, both))
    assert f"rank {rank} of 2 processes was ended by SIGKILL" in Run(folder).summary["error"]

    again = begun(environment, folder, resumed_with, "--resume")
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert Run(folder).finished
    whole, resumed = (path / "metrics.jsonl" for path in (uninterrupted, folder))
    if resumed_with == 2:
        assert resumed.read_bytes() == whole.read_bytes()
    for before, after in zip(*map(read, (whole, resumed)), strict=True):
        assert after == pytest.approx(before, rel=1e-5, abs=2e-6)


def read(path: Path) -> list[dict]:
    return list(map(json.loads, path.read_text().splitlines()))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_error_of_one_rank_is_that_of_the_run(environment, tmp_path, strategy):
    (tmp_path / "sitecustomize.py").write_text(FAULT)
    folder = tmp_path / "run"
    paths = os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])
    words = [*SETTINGS, "--strategy", strategy]
    launcher = begun(environment | {"PYTHONPATH": paths}, folder, 2, *words)
    output, _ = launcher.communicate()
    assert launcher.returncode == 2
    assert output.count("error: ") == 1
    assert "rank 1 of 2 processes failed: out of memory (CUDA out of memory. Tried" in output
    assert "rank 1 of 2 processes failed: out of memory" in Run(folder).summary["error"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_after_their_step(environment, tmp_path, number):
    folder = tmp_path / "run"
    words = [*SETTINGS, "--steps", "100000", "--eval-every", "0"]
    launcher = begun(environment, folder, 2, *words)
    until(lambda: lines(folder) > 3, "no step is ever done")
    all_of_them = ranks(launcher.pid)
    launcher.send_signal(number)
    output, _ = launcher.communicate()
    assert launcher.returncode == 128 + number
    assert "Stopped. Go on with: dpo-lab train --resume" in output and "error" not in output
    assert not any(map(running, all_of_them))
    summary = Run(folder).summary
    assert summary["state"] == "stopped" and summary["step"] == lines(folder)


def test_no_process_outlives_its_launcher(environment, tmp_path):
    folder = tmp_path / "run"
    words = [*SETTINGS, "--steps", "100000", "--eval-every", "0"]
    launcher = begun(environment, folder, 2, *words)
    until(lambda: lines(folder) > 3, "no step is ever done")
    all_of_them = ranks(launcher.pid)
    launcher.kill()
    launcher.wait()
    until(lambda: not any(map(running, all_of_them)), "a process lives on")
    assert Run(folder).summary["state"] == "stopped", "they had the time for a checkpoint"


def test_a_wrong_setting_is_one_line(environment, tmp_path):
    launcher = begun(environment, tmp_path / "run", 2, "--data", "nowhere.jsonl")
    output, _ = launcher.communicate()
    assert launcher.returncode == 2
    assert output.count("error: ") == 1 and "nowhere.jsonl" in output
    assert not (tmp_path / "run").exists()


def test_srun_and_two_machines(environment, uninterrupted, tmp_path):
    """Two tasks with the variables of `srun` find each other, as do two launchers of torchrun."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho 127.0.0.1\necho 127.0.0.2\n")
    scontrol.chmod(0o755)
    variables = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "a,b", "SLURM_LOCALID": "0"}
    variables |= {"SLURM_JOB_ID": str(os.getpid()), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    torchrun = ["-m", "torch.distributed.run", "--nnodes=2", "--master_addr=127.0.0.1"]
    torchrun += [f"--master_port={40_000 + os.getpid() % 20_000}"]

    def both(folder: str, started) -> None:
        train = ["-m", "dpo_lab", "train", "--out", str(tmp_path / folder), *SETTINGS]
        tasks = []
        for rank in (0, 1):
            words, more = started(rank)
            command = [sys.executable, *words, *train]
            tasks.append(subprocess.Popen(command, env=environment | more, stdout=subprocess.PIPE))
        assert [task.wait() for task in tasks] == [0, 0]
        records = (tmp_path / folder / "metrics.jsonl").read_bytes()
        assert records == (uninterrupted / "metrics.jsonl").read_bytes()

    both("slurm", lambda rank: ([], variables | {"SLURM_PROCID": str(rank)}))
    both("two", lambda rank: ([*torchrun, f"--node_rank={rank}"], {}))
