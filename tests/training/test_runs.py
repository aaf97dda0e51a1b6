import json
import os
import shutil
from pathlib import Path

import pytest

from dpo_lab.training.config import TrainConfig
from dpo_lab.training.records import SampleRecord, StepRecord
from dpo_lab.training.runs import Run, list_runs


class Killed(BaseException):
    """Stands for the process's end: nothing in the code may catch it and tidy up."""


def record(step: int) -> StepRecord:
    return StepRecord(step, step / 10, step * 8, 0.1, 1e-3, {"loss": 0.5}, {"seconds": 0.1})


def writes(text: str):
    def write(folder: Path) -> None:
        (folder / "model").write_text(text)
        (folder / "trainer").write_text(text)

    return write


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.create(tmp_path / "run", TrainConfig(), {"python": "3"})


def test_a_run_reads_back_what_was_written(run):
    run.append(record(1))
    run.append(record(2))
    run.append_samples([SampleRecord(2, "where?", "here", "there", 0.0, 1.0)])
    again = Run.open(run.path)
    assert again.config == TrainConfig()
    assert again.records() == [record(1), record(2)]
    assert again.samples()[0].policy == "there"
    assert again.summary == {"state": "unfinished"}
    assert [found.path for found in list_runs(run.path.parent)] == [run.path]


def test_a_line_cut_short_by_a_kill_is_left_out_and_rewound(run):
    for step in (1, 2, 3):
        run.append(record(step))
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "ep')
    assert [r.step for r in run.records()] == [1, 2, 3]
    run.rewind(2)
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def disk_calls(monkeypatch, act, dies_at: int | None = None) -> int:
    """Do something, dying before the given call that changes the disk; count the calls."""
    count = 0

    def counted(call):
        def wrapper(*arguments, **options):
            nonlocal count
            if count == dies_at:
                raise Killed
            count += 1
            return call(*arguments, **options)

        return wrapper

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", counted(os.rename))
        patch.setattr(os, "replace", counted(os.replace))
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        patch.setattr(Path, "mkdir", counted(Path.mkdir))
        patch.setattr(Path, "write_text", counted(Path.write_text))
        patch.setattr(Path, "write_bytes", counted(Path.write_bytes))
        act()
    return count


def test_a_kill_while_a_run_is_begun_leaves_a_folder_to_begin_it_in(tmp_path, monkeypatch):
    def begin(name: str) -> Run:
        return Run.create(tmp_path / name, TrainConfig(), {"python": "3"})

    total = disk_calls(monkeypatch, lambda: begin("whole"))
    assert total == 5
    for moment in range(total):
        name = f"killed at {moment}"
        with pytest.raises(Killed):
            disk_calls(monkeypatch, lambda name=name: begin(name), dies_at=moment)
        assert not Run(tmp_path / name).exists
        assert begin(name).environment == {"python": "3"}
        assert Run(tmp_path / name).config == TrainConfig()


def test_at_every_moment_of_a_replacement_a_whole_checkpoint_is_there(run, monkeypatch):
    def replace_it() -> None:
        run.save_checkpoint(writes("new"))

    run.save_checkpoint(writes("old"))
    total = disk_calls(monkeypatch, replace_it)
    assert total >= 7
    for moment in range(total):
        run.save_checkpoint(writes("old"))
        with pytest.raises(Killed):
            disk_calls(monkeypatch, replace_it, dies_at=moment)
        found = Run(run.path).checkpoint
        texts = {(found / name).read_text() for name in ("model", "trainer")}
        assert texts in ({"old"}, {"new"}), f"torn at call {moment}"
        run.save_checkpoint(writes("next"))
        assert (run.checkpoint / "model").read_text() == "next"
        assert not (run.path / "checkpoint.next").exists()
        assert not (run.path / "checkpoint.previous").exists()


def test_a_folder_with_something_in_it_is_no_place_for_a_new_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="exists already.*--resume"):
        Run.create(tmp_path, TrainConfig(), {})


def test_two_writers_are_refused(run):
    run.lock()
    with pytest.raises(FileExistsError, match="another process"):
        Run(run.path).lock()
    run.unlock()
    Run(run.path).lock()


def test_no_run_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run there"):
        Run.open(tmp_path)


def test_a_broken_config_is_named(run):
    (run.path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json: broken"):
        _ = run.config
    (run.path / "config.json").write_text('{"betta": 1}')
    with pytest.raises(ValueError, match="unknown field 'betta'"):
        _ = run.config
