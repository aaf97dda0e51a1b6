"""The workbench's line of trackers: taken, refused in words, and used by kept runs alone."""

from __future__ import annotations

import pytest

from dpo_lab.ui.workbench.tracker_choice import TrackerChoice
from dpo_lab.ui.workbench.workbench import Workbench

pytest.importorskip("tensorboard")
SETTINGS = {"steps": 2, "eval_every": 0, "limit": 100}


def test_names_are_taken_or_refused():
    choice = TrackerChoice("tensorboard")
    assert choice.names == ["tensorboard"] and choice.value.value == "tensorboard"
    choice.value.value = "nonsense"
    assert "report_to=&#x27;nonsense&#x27;" in choice.problem.value
    assert choice.names == ["tensorboard"]
    choice.value.value = " tensorboard,  "
    assert choice.names == ["tensorboard"] and choice.problem.value == ""
    choice.value.value = ""
    assert choice.names == []
    with pytest.raises(ValueError, match="report_to='nonsense'"):
        TrackerChoice(["nonsense"])


def test_kept_runs_are_reported(tmp_path):
    bench = Workbench(folder=tmp_path, report_to="tensorboard", **SETTINGS)
    try:
        run = bench.train()
        run.wait()
        assert list((run.folder / "runs").rglob("*tfevents*"))
        bench.trackers.value.value = ""
        other = bench.train()
        other.wait()
        assert not (other.folder / "runs").exists()
    finally:
        bench.close()
