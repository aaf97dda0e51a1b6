"""A sweep on a Ray cluster of two nodes on this machine, one of which is lost."""

import json
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from real_processes import until

from dpo_lab.cli.commands import main
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.run_lines import read_rows
from dpo_lab.training.runs import Run, noted_at_checkpoint
from dpo_lab.training.sweep import SNAPSHOT, SweepFailed, grid, sweep

BASE = TrainConfig(
    model="micro",
    data="reviews",
    steps=800,
    batch_pairs=4,
    limit=200,
    eval_every=400,
    eval_pairs=8,
    kl_samples=5,
    checkpoint_every=20,
    device="cpu",
)
EIGHT = grid(BASE, {"beta": [0.1, 0.3, 1.0, 3.0], "seed": [0, 1]})

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Ray's nodes in one machine"),
]


def lines(path) -> int:
    return path.read_bytes().count(b"\n")


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    cluster.other = cluster.add_node(**node)
    yield cluster
    cluster.shutdown()


def test_a_lost_node_costs_the_steps_since_a_checkpoint(cluster, tmp_path):
    """Its run resumes: what was noted of the steps up to its checkpoint is still there."""
    told, kept = [], {}

    def half_done() -> list[str]:
        """Two runs that have a checkpoint and go on: one on either node."""
        files = {name: tmp_path / "ray" / name / "metrics.jsonl" for name in EIGHT}
        steps = {name: lines(path) for name, path in files.items() if path.exists()}
        going = [name for name, count in steps.items() if 100 < count < 700]
        return going if len(going) == 2 else []

    def lose_a_node() -> None:
        for name in until(half_done, "no two runs go on at once"):
            folder = tmp_path / "ray" / name
            at = noted_at_checkpoint(folder)["step"]
            kept[name] = read_rows(folder / "timing.jsonl", at)
        cluster.remove_node(cluster.other, allow_graceful=False)

    losing = threading.Thread(target=lose_a_node)
    losing.start()
    rows = sweep(
        EIGHT,
        tmp_path / "ray",
        engine="ray",
        address=cluster.address,
        done=lambda name, count, total: told.append((name, count, total)),
    )
    losing.join()
    assert min(map(len, kept.values())) > 50
    assert sorted(name for name, _, _ in told) == sorted(EIGHT), "each once"
    assert [count for _, count, _ in told] == list(range(1, 9))
    for name in EIGHT:
        run = Run(tmp_path / "ray" / name)
        assert run.finished and [record.step for record in run.records()] == list(range(801))
        assert run.environment["reference"]["computed"] == 0
        timing = read_rows(run.path / "timing.jsonl")
        assert timing[: len(kept.get(name, []))] == kept.get(name, []), "it began again"
    assert (tmp_path / "ray" / SNAPSHOT).exists()
    assert rows == sweep(EIGHT, tmp_path / "local")


def test_a_failed_run_is_named_and_the_others_go_on(cluster, tmp_path, monkeypatch):
    """With data by a path that is meant from here, not from where the cluster was started."""
    rows = [
        {"prompt": f"{n} the plot was", "chosen": "superb", "rejected": "dull"} for n in "abcde"
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    base = replace(BASE, data="own.jsonl", limit=None, steps=4, batch_pairs=2)
    bad = replace(base, learning_rate=1e20, max_grad_norm=1e20, schedule="constant", warmup_steps=0)
    configs = {"good": base, "bad": bad}
    with pytest.raises(SweepFailed, match="^1 run failed: bad: step ") as failed:
        sweep(configs, tmp_path, engine="ray", address=cluster.address)
    assert [row["run"] for row in failed.value.rows] == ["good"]
    assert "lower learning rate" in failed.value.failures["bad"]


def test_what_the_cluster_lacks_is_said(cluster, tmp_path):
    with pytest.raises(ValueError, match="no machine of the cluster has more than 0 GPUs"):
        sweep(EIGHT, tmp_path, engine="ray", address=cluster.address, gpus_per_run=1)
    assert list(tmp_path.iterdir()) == []


def test_a_signal_ends_the_runs_with_their_last_step_kept(cluster, tmp_path):
    words = ["sweep", "--beta", "0.1", "--seed", "0", "1", "--steps", "100000", "--eval-every", "0"]
    words += ["--engine", "ray", "--address", cluster.address, "--out", str(tmp_path / "x")]
    launcher = subprocess.Popen(
        [sys.executable, "-m", "dpo_lab", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    folder = tmp_path / "x" / "seed=0"
    path = folder / "metrics.jsonl"
    until(lambda: path.exists() and lines(path) > 60, "the first run never begins")
    launcher.send_signal(signal.SIGINT)
    launcher.communicate()
    assert launcher.returncode == 128 + signal.SIGINT
    until(lambda: (folder / "summary.json").exists(), "the run never ends")
    assert Run(folder).summary["state"] == "stopped"
    assert noted_at_checkpoint(folder)["step"] == Run(folder).records()[-1].step > 60


def test_an_address_where_nobody_answers_is_said(tmp_path):
    with socket.socket() as taken:  # bound, but it does not listen
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"address '{address}': no Ray cluster is there"):
            sweep(EIGHT, tmp_path, engine="ray", address=address)


def test_options_of_the_other_engine_are_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="workers: Ray runs as many"):
        sweep(EIGHT, tmp_path, engine="ray", workers=2)
    with pytest.raises(ValueError, match="belong to engine ray"):
        sweep(EIGHT, tmp_path, gpus_per_run=1)
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "--beta", "0.1", "1", "--address", "auto", "--out", str(tmp_path / "x")])
    assert ended.value.code == 2 and "belong to engine ray" in capsys.readouterr().err
