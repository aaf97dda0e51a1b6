"""The threads of a run: the same records whatever the process had, and fewer on taken cores."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from dataclasses import replace
from threading import Event, Thread

import pytest
import torch

from dpo_lab import TrainConfig, prepare, train
from dpo_lab.kernels import threads as kernel_threads
from dpo_lab.training import setup, threads
from dpo_lab.training.records import StepRecord
from dpo_lab.training.runs import Run
from dpo_lab.training.start_or_resume import open_or_create
from dpo_lab.training.threads import KEY, RunThreads

BATCH = TrainConfig(steps=40, batch_pairs=64, eval_every=0, eval_pairs=0)


@pytest.fixture(autouse=True)
def as_many_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def trained(config: TrainConfig, number: int) -> list[dict]:
    torch.set_num_threads(number)
    records = [record.as_dict() for record in train(prepare(config))]
    assert torch.get_num_threads() == number, "put back"
    return records


def test_micro_gives_the_same_bits_whatever_threads_the_process_has():
    """Before, two threads parted from one at step 3, and from themselves later on."""
    assert trained(BATCH, 1) == trained(BATCH, 2)


@pytest.mark.slow
def test_a_larger_models_records_repeat_with_as_many_threads(monkeypatch):
    """Rows that several answers need get their gradients added in one order."""
    monkeypatch.setattr(kernel_threads, "SMALL", 0)
    monkeypatch.setattr(threads, "SHORT", math.inf)  # whatever else runs here meanwhile
    first = trained(replace(BATCH, steps=25), 2)
    assert all(trained(replace(BATCH, steps=25), 2) == first for _ in range(2))


def test_a_run_has_the_threads_that_its_record_says(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_threads, "SMALL", 0)
    torch.set_num_threads(2)
    job = prepare(replace(BATCH, steps=2, limit=128))
    run = open_or_create(Run(tmp_path / "run"), job)
    assert run.environment["threads"] == 2
    torch.set_num_threads(1)
    seen = [torch.get_num_threads() for _ in train(job, run=run)]
    assert seen == [2, 2] and torch.get_num_threads() == 1


def step(number: int, seconds: float, cores: float) -> StepRecord:
    timing = {"seconds": seconds, "processor_seconds": seconds * cores}
    return StepRecord(number, 0.0, 0, 0.1, 1e-3, {"loss": 0.5}, timing)


def watched(at_most: int, *steps: tuple[float, float]) -> list[int]:
    """Threads after each step of so many seconds with so many cores; every change is logged."""
    run_threads, after = RunThreads(at_most), []
    run_threads.take(torch.device("cpu"))
    for number, (seconds, cores) in enumerate(steps):
        record = run_threads.watched(step(number, seconds, cores))
        changed = len(after) > 1 and after[-1] != after[-2]
        assert record.values.get(KEY) == (after[-1] if changed else None)
        after.append(torch.get_num_threads())
    run_threads.put_back()
    return after


def test_fewer_threads_where_three_steps_got_little_of_the_cores(monkeypatch):
    """4 threads that get 1.5 cores of processor time become 2; of 2 with 1.1, one is left."""
    monkeypatch.setattr(threads, "_room_for", lambda more: False)
    assert watched(4, *[(1.0, 1.5)] * 4) == [4, 4, 2, 2]
    assert watched(2, *[(1.0, 1.1)] * 4) == [2, 2, 1, 1]
    assert watched(2, *[(1.0, 1.8)] * 5) == [2] * 5
    assert watched(2, (1.0, 1.9), (1.0, 0.9), (1.0, 1.9), (1.0, 1.9)) == [2] * 4  # a moment
    assert watched(2, *[(0.1, 1.0)] * 5) == [2] * 5  # too short to tell


def test_all_threads_again_once_the_machine_has_room(monkeypatch):
    room = iter([False, False, True])
    monkeypatch.setattr(threads, "_room_for", lambda more: next(room))
    assert watched(2, *[(1.0, 1.0)] * 8) == [2, 2, 1, 1, 1, 1, 1, 2]


def test_a_run_that_goes_on_has_the_threads_that_it_had_last(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_threads, "SMALL", 0)
    torch.set_num_threads(4)
    config = replace(BATCH, steps=3, limit=128, checkpoint_every=1)
    run = open_or_create(Run(tmp_path / "run"), prepare(config))
    changing = train(prepare(config), run=run)
    monkeypatch.setattr(RunThreads, "watched", lambda self, record: replace(record, values={**record.values, KEY: 3}))  # noqa: E501  # fmt: skip
    next(changing)
    changing.close()
    monkeypatch.undo()
    monkeypatch.setattr(kernel_threads, "SMALL", 0)
    seen = [torch.get_num_threads() for _ in train(prepare(config), run=run)]
    assert seen == [3, 3]


def taken(number: int) -> None:
    run_threads = RunThreads(number)
    run_threads.take(torch.device("cpu"))
    run_threads.put_back()


def test_threads_that_spin_are_said_once(caplog, monkeypatch):
    monkeypatch.setattr(kernel_threads.sys, "platform", "linux")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    kernel_threads.say_that_threads_spin.cache_clear()
    with caplog.at_level(logging.WARNING):
        taken(1)
        assert not caplog.records, "one thread waits for none"
        for _ in range(2):
            taken(2)
    assert len(caplog.records) == 1 and "OMP_WAIT_POLICY=PASSIVE" in caplog.text
    caplog.clear()
    kernel_threads.say_that_threads_spin.cache_clear()
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    taken(2)
    assert not caplog.records


def test_the_command_line_chooses_the_policy_before_torch_is_loaded():
    code = (
        "import os, sys; os.environ.pop('OMP_WAIT_POLICY', None)\n"
        "import dpo_lab.cli.commands as c\n"
        "assert 'torch' not in sys.modules\n"
        "try: c.main(['--version'])\nexcept SystemExit: pass\n"
        "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "PASSIVE False"


def test_elsewhere_than_on_the_cpu_no_thread_is_taken_away():
    """A step that waits for the device takes little processor time, whoever has the cores."""
    run_threads = RunThreads(4)
    run_threads.take(torch.device("cuda"))
    for number in range(6):
        record = step(number, 1.0, 0.1)
        assert run_threads.watched(record) is record
    assert torch.get_num_threads() == 4
    run_threads.put_back()


@pytest.mark.parametrize("first_to_end", ["small", "large"])
def test_a_larger_model_beside_micro_has_the_threads_of_the_process(first_to_end, monkeypatch):
    """Each in a thread of its own, which begins with the number that was set last anywhere."""
    torch.set_num_threads(3)
    go_on, found = {"small": Event(), "large": Event()}, {}
    there = {"small": Event(), "large": Event()}

    def run(name: str, weights: int) -> None:
        model = torch.nn.Linear(weights, 1, bias=False)
        found[name, "begins with"] = torch.get_num_threads()
        run_threads = RunThreads(kernel_threads.threads_worth(model))
        run_threads.take(torch.device("cpu"))
        found[name] = torch.get_num_threads()
        there[name].set()
        go_on[name].wait()
        found[name, "still"] = torch.get_num_threads()
        run_threads.put_back()

    both = {
        name: Thread(target=run, args=(name, weights))
        for name, weights in (("small", 10), ("large", kernel_threads.SMALL))
    }
    for name in ("small", "large"):
        both[name].start()
        there[name].wait()
    for name in (first_to_end, *({"small", "large"} - {first_to_end})):
        go_on[name].set()
        both[name].join()
    assert found["large", "begins with"] == 1, "or there would be nothing to fix"
    assert (found["small"], found["large"]) == (1, 3)
    assert (found["small", "still"], found["large", "still"]) == (1, 3)
    late = Thread(target=lambda: found.update(late=torch.get_num_threads()))
    late.start()
    late.join()
    assert found["late"] == 3 and kernel_threads.own_threads() == 3


def test_the_reference_is_scored_on_the_threads_of_the_run(monkeypatch):
    """Micro has one, whatever the process has."""
    torch.set_num_threads(2)
    seen, score = set(), setup.reference_logps

    def watched_score(*arguments, **options):
        seen.add(torch.get_num_threads())
        return score(*arguments, **options)

    monkeypatch.setattr(setup, "reference_logps", watched_score)
    prepare(replace(BATCH, steps=1, limit=64))
    assert seen == {1} and torch.get_num_threads() == 2
