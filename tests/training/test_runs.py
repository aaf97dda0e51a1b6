import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kills import Killed

from dpo_lab.training.config import TrainConfig
from dpo_lab.training.records import SampleRecord, StepRecord
from dpo_lab.training.run_folders import give_back, list_runs, new_folder
from dpo_lab.training.runs import Run


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
    assert total >= 5
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
    with pytest.raises(FileExistsError, match="holds no run but other files, such as file"):
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


def test_two_processes_that_begin_runs_at_once_get_a_folder_each(tmp_path):
    """Both wait for one moment, and then take twenty folders of one name as fast as they can."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from dpo_lab.training.config import TrainConfig\n"
        "from dpo_lab.training.run_folders import new_folder\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for _ in range(20): print(new_folder(TrainConfig(), Path(sys.argv[1])).name)\n"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "runs")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    names = [name for process in both for name in process.communicate()[0].split()]
    assert sorted(names) == [f"micro-reviews-sigmoid-beta0.1-{n:03}" for n in range(1, 41)]


def test_a_folder_is_given_back_if_no_run_was_begun_in_it(tmp_path):
    config = TrainConfig()
    first, second = new_folder(config, tmp_path), new_folder(config, tmp_path)
    Run.create(second, config, {})
    for folder in (first, second):
        give_back(folder)
    assert not first.exists() and Run(second).exists
    assert new_folder(config, tmp_path) == first


def test_no_run_is_begun_where_another_process_begins_one(tmp_path):
    """Its lock is held while its files are not there yet."""
    (tmp_path / "run").mkdir()
    other = Run(tmp_path / "run")
    other.lock()
    with pytest.raises(FileExistsError, match="another process is training in this folder"):
        Run.create(other.path, TrainConfig(), {})
    other.unlock()
    assert Run.create(other.path, TrainConfig(), {}).exists


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"loss": null}', "loss=None is of the wrong kind. It must be text"),
        ('{"loss": 5}', "loss=5 is of the wrong kind. It must be text"),
        ('{"steps": 2.5}', "steps=2.5 is of the wrong kind. It must be a whole number or null"),
        ('{"seed": true}', "seed=True is of the wrong kind. It must be a whole number"),
        ('{"beta": "much"}', "beta='much' is of the wrong kind. It must be a number"),
        ('{"columns": [1]}', r"columns=\(1,\) is of the wrong kind. It must be an object"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(run, text, words):
    (run.path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=f"config.json: config: {words}"):
        _ = run.config


def test_a_configuration_reads_back_whatever_it_holds(run):
    config = TrainConfig(
        beta=1, ld_alpha=0.5, steps=3, lora_rank=2, lora_targets=("q_proj",),
        columns={"prompt": "q"}, template_date="2026-01-31", use_weighting=True,
    )  # fmt: skip
    (run.path / "config.json").write_text(json.dumps(config.as_dict()))
    assert run.config == config


@pytest.mark.parametrize("day", ["20260131", "2026-W05-6"])
def test_a_date_is_written_in_one_way(day):
    with pytest.raises(ValueError, match="2026-01-31 in another format.* Write it as 2026-01-31"):
        TrainConfig(template_date=day)
