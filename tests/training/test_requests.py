"""Requests to a run through its folder, and following it there; two real processes at the end."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from real_processes import ranks, until

from dpo_lab.training.config import TrainConfig
from dpo_lab.training.followed import FollowedRun
from dpo_lab.training.heartbeat import ALIVE, DEAD_AFTER, EVERY, Heart, Pulse
from dpo_lab.training.loop import train
from dpo_lab.training.requests import APPLIED, REQUESTS, LineReader, append_line, ask
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import prepare
from dpo_lab.training.start_or_resume import open_or_create

SETTINGS = {"steps": 12, "batch_pairs": 4, "limit": 60, "eval_every": 6, "kl_samples": 5}


@pytest.fixture
def going(micro, tmp_path):
    """A run of twelve steps as a generator, and its folder."""
    job = prepare(TrainConfig(device="cpu", warmup_steps=0, **SETTINGS))
    run = open_or_create(Run(tmp_path / "run"), job)
    steps = train(job, run=run)
    yield steps, run.path
    steps.close()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_change_is_in_force_from_the_step_that_the_run_says(going):
    steps, folder = going
    assert [next(steps).step for _ in range(4)] == [0, 1, 2, 3]
    changed = ask(folder, "change", beta=0.7, learning_rate=2e-4)
    assert lines(folder / REQUESTS)[0].keys() == {"id", "time", "ask", "beta", "learning_rate"}
    record = next(steps)
    assert (record.step, record.beta) == (4, 0.7)
    assert record["change/learning_rate"] == 2e-4
    assert [(a["id"], a["step"]) for a in lines(folder / APPLIED)] == [(changed, 4)]
    assert next(steps).beta == 0.7
    ask(folder, "stop")
    assert list(steps) == []
    assert Run(folder).summary["state"] == "stopped" and Run(folder).summary["step"] == 5


def test_what_stopped_a_run_does_not_stop_it_again(going):
    steps, folder = going
    next(steps)
    ask(folder, "stop")
    assert list(steps) == []
    job = prepare(TrainConfig(device="cpu", warmup_steps=0, **SETTINGS))
    again = train(job, run=Run(folder))
    assert [record.step for record in again] == list(range(1, 13))


def test_a_paused_run_takes_the_steps_that_are_asked_for(going):
    steps, folder = going
    next(steps)
    ask(folder, "pause")
    ask(folder, "step", steps=2)
    assert [next(steps).step for _ in range(2)] == [1, 2]
    resumed = threading.Timer(0.5, ask, (folder, "resume"))
    resumed.start()
    started = time.monotonic()
    assert next(steps).step == 3
    assert time.monotonic() - started >= 0.4, "it went on before it was asked to"


@pytest.mark.parametrize(
    "what, values, said",
    [
        ("change", {"beta": -1.0}, "beta=-1.0: must be a finite number > 0"),
        ("change", {"learning_rate": float("nan")}, "learning_rate=nan"),
        ("change", {}, "no such request"),
        ("change", {"seed": 3}, "no such request"),
        ("step", {"steps": 0}, "steps=0"),
        ("explode", {}, "no such request"),
    ],
)
def test_a_wrong_request_is_refused_where_it_is_asked_and_by_the_run(going, what, values, said):
    steps, folder = going
    next(steps)
    with pytest.raises(ValueError, match=said):
        ask(folder, what, **values)
    assert not (folder / REQUESTS).exists()
    append_line(folder / REQUESTS, {"id": "by hand", "ask": what, **values})
    (folder / REQUESTS).open("a").write("no json\n[1]\n")
    assert next(steps).beta == 0.1
    (answer,) = lines(folder / APPLIED)
    assert answer["id"] == "by hand" and said in answer["refused"]


def test_lines_are_read_once_whole_and_again_after_a_cut(tmp_path):
    path = tmp_path / "lines.jsonl"
    reader = LineReader(path)
    assert reader.new() == []
    path.write_text('{"a": 1}\n{"b"')
    assert reader.new() == [{"a": 1}]
    with path.open("a") as file:
        file.write(": 2}\n")
    assert reader.new() == [{"b": 2}] and reader.new() == [] and not reader.cut
    path.write_text('{"a": 1}\n')
    assert reader.cut
    assert LineReader(path, at_end=True).new() == []


def test_many_writers_lose_nothing(tmp_path):
    inbox_of, threads = LineReader(tmp_path / REQUESTS), []
    for number in range(8):
        betas = [1 + number + at / 100 for at in range(50)]
        work = lambda betas=betas: [ask(tmp_path, "change", beta=beta) for beta in betas]  # noqa: E731
        threads.append(threading.Thread(target=work))
        threads[-1].start()
    for thread in threads:
        thread.join()
    read = inbox_of.new()
    assert len({request["id"] for request in read}) == len(read) == 400


def test_a_followed_run_has_every_record_and_answer(going):
    steps, folder = going
    followed, trained = FollowedRun(folder), []
    for record in steps:
        trained.append(record)
        if record.step % 3 == 0:
            followed.look()
            assert followed.records[-1] == record and followed.doing is None
    followed.look()
    assert list(followed.records) == trained and followed.total_steps == 12
    assert followed.samples == Run(folder).last_samples() and followed.samples
    assert followed.how_it_ended() == "done" and not (folder / ALIVE).exists()


def test_what_is_asked_and_what_is_in_force(going):
    steps, folder = going
    next(steps)
    followed = FollowedRun(folder)
    assert followed.alive and followed.state == "training"
    followed.control.set(beta=0.9)
    followed.look()
    assert followed.control.asked == {"beta": 0.9} and followed.live.beta == 0.1
    next(steps)
    followed.look()
    assert followed.control.asked == {} and followed.live.beta == 0.9
    assert followed.control.answered_from == 1


def test_a_run_that_resumes_from_an_earlier_step_is_read_again(going):
    steps, folder = going
    for _ in range(9):
        next(steps)
    followed = FollowedRun(folder)
    assert len(followed.records) == 9
    Run(folder).rewind(4)
    followed.look()
    assert [record.step for record in followed.records] == [0, 1, 2, 3, 4]


def test_a_pulse_that_no_longer_changes_has_stopped(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("dpo_lab.training.heartbeat.time.monotonic", lambda: now[0])
    pulse = Pulse(tmp_path)
    assert pulse.feel() is None and not pulse.stopped
    for beat in range(3):
        (tmp_path / ALIVE).write_text(json.dumps({"beat": beat}))
        now[0] += DEAD_AFTER
        assert pulse.feel() == {"beat": beat}
    (tmp_path / ALIVE).write_text('{"beat"')  # half written
    assert pulse.feel() == {"beat": 2}
    now[0] += DEAD_AFTER + 0.1
    assert pulse.feel() is None and pulse.stopped


def test_a_folder_in_which_another_machine_trains_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("dpo_lab.training.heartbeat.DEAD_AFTER", 1.0)
    monkeypatch.setattr("dpo_lab.training.heartbeat.socket.gethostname", lambda: "other")
    heart = Heart(tmp_path, lambda: {})
    heart.start()
    until((tmp_path / ALIVE).exists, "it never beats")
    monkeypatch.setattr("dpo_lab.training.heartbeat.socket.gethostname", lambda: "here")
    with pytest.raises(FileExistsError, match="a process on other is training"):
        Run(tmp_path).lock()
    last = (tmp_path / ALIVE).read_text()
    heart.stop()
    (tmp_path / ALIVE).write_text(last)  # as after a kill
    run = Run(tmp_path)
    run.lock()
    run.unlock()


@pytest.mark.slow
def test_two_processes_are_steered_from_a_third_and_their_death_is_noticed(tmp_path):
    folder = tmp_path / "run"
    words = ["--out", str(folder), "--processes", "2", "--steps", "100000", "--eval-every", "0"]
    launcher = subprocess.Popen(
        [sys.executable, "-m", "dpo_lab", "train", *words, "--batch-pairs", "4"],
        env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: (folder / ALIVE).exists() or launcher.poll() is not None, "it never begins")
    run = FollowedRun(folder).start()
    try:
        run.reach(5, timeout=60)
        assert run.processes == 2
        run.control.set(beta=0.45)
        changed = until(lambda: run.control.answered_from, "it does not come to that")
        run.reach(changed + 2, timeout=60)
        by_step = {record.step: record.beta for record in run.records}
        assert by_step[changed] == 0.45 and by_step[changed - 1] == 0.1
        run.control.pause()
        until(lambda: run.state == "paused", "it does not come to that")
        before = run.records[-1].step
        run.control.step(3)
        run.reach(before + 3, timeout=60)
        beats = _beat(folder) + 2 * DEAD_AFTER / EVERY  # a paused run is alive, however long
        until(lambda: _beat(folder) > beats, "it does not come to that")
        assert run.state == "paused" and run.records[-1].step == before + 3
        run.control.resume()
        run.reach(before + 20, timeout=60)
        for pid in (launcher.pid, *ranks(launcher.pid)):
            os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        with pytest.raises(RuntimeError, match="no sign of life since step"):
            run.wait(timeout=60)
        assert time.monotonic() - killed < DEAD_AFTER + 1 and run.state == "dead"
    finally:
        launcher.kill()
        run.end()


def _beat(folder) -> int:
    return json.loads((folder / ALIVE).read_text())["beat"]
