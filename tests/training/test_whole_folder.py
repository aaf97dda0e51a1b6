"""A folder that appears when it is whole: errors, kills, other files, two writers."""

import subprocess
import sys

import pytest

from dpo_lab.training.whole_folder import check_place, written_whole

KILLED = """
import os, sys
from pathlib import Path
from dpo_lab.training.whole_folder import written_whole
with written_whole(Path(sys.argv[1]), overwrite=True) as scratch:
    (scratch / "model.safetensors").write_text("half")
    os._exit(9)
"""


def write(folder, text, **options):
    with written_whole(folder, **options) as scratch:
        (scratch / "model.safetensors").write_text(text)


def test_it_appears_with_all_its_files_and_nothing_beside_it(tmp_path):
    folder = tmp_path / "deep" / "model"
    write(folder, "one")
    assert [file.name for file in folder.iterdir()] == ["model.safetensors"]
    assert [file.name for file in folder.parent.iterdir()] == ["model"]


def test_a_kill_or_an_error_leaves_what_was_there(tmp_path):
    folder = tmp_path / "model"
    write(folder, "old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)])
    assert done.returncode == 9 and (folder / "model.safetensors").read_text() == "old"
    with pytest.raises(RuntimeError), written_whole(folder, overwrite=True) as scratch:
        assert not list(scratch.iterdir()), "what the killed one left is gone"
        raise RuntimeError
    assert (folder / "model.safetensors").read_text() == "old"
    write(folder, "new", overwrite=True)
    assert (folder / "model.safetensors").read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_a_model_is_replaced_only_if_asked_and_other_files_never(tmp_path):
    folder, other = tmp_path / "model", tmp_path / "other"
    write(folder, "old")
    with pytest.raises(FileExistsError, match="holds a model already.*--overwrite"):
        check_place(folder)
    check_place(folder, overwrite=True)
    other.mkdir()
    (other / "thesis.tex").write_text("years")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="thesis.tex, which are never replaced"):
            write(other, "new", overwrite=overwrite)
    with pytest.raises(FileExistsError, match="is a file"):
        check_place(other / "thesis.tex")
    run = tmp_path / "run"
    write(run / "checkpoint", "weights")
    (run / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="the checkpoint of a run"):
        check_place(run / "checkpoint", overwrite=True)


def test_two_cannot_write_one_folder(tmp_path):
    with written_whole(tmp_path / "model") as scratch:
        (scratch / "model.safetensors").write_text("first")
        with pytest.raises(FileExistsError, match="another process writes this folder"):
            write(tmp_path / "model", "second")
    assert (tmp_path / "model" / "model.safetensors").read_text() == "first"
