"""What became of the rows is on the page before Train, and in the report."""

from __future__ import annotations

import json
import re

import pytest

from dpo_lab import TrainConfig
from dpo_lab.training.loop import train
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import prepare
from dpo_lab.training.start_or_resume import open_or_create
from dpo_lab.ui.html.data_list import data_fold, data_list
from dpo_lab.ui.report.summary import report_of
from dpo_lab.ui.workbench.data_panel import DataPanel
from dpo_lab.ui.workbench.state import WorkbenchState
from dpo_lab.ui.workbench.workbench import Workbench

QUICK = {"steps": 2, "batch_pairs": 2, "eval_every": 0, "kl_samples": 0}


def _text(html: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", html).replace("&#x27;", "'").split())


@pytest.fixture
def bad_rows(tmp_path):
    """30 rows: 12 without a rejected answer, one repeated, and a column that nothing uses."""
    rows = [
        {"prompt": f"the plot was {i}", "chosen": "great", "rejected": "awful", "mood": "good"}
        for i in range(30)
    ]
    for i in range(0, 24, 2):
        del rows[i]["rejected"]
    rows[29] = rows[27]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_that_cannot_be_used_are_on_the_page_before_train(bad_rows) -> None:
    bench = Workbench(data=str(bad_rows), folder=None, **QUICK)
    bench.data.wait()
    shown = _text(bench.data.view.value)
    assert bench.run is None
    # 18 pairs of 17 prompts, one of them twice; a tenth of the prompts, 2, is held out.
    assert re.search(
        r"1[56] pairs to train on , [23] held-out pairs to measure on , 2 held-",
        shown.replace("on,", "on ,"),
    )
    assert "12 rows not used" in shown and "12 missing" in shown
    listed = [f"row {number}, 'rejected': missing" for number in range(1, 21, 2)]
    assert all(line in shown for line in listed) and "row 21," not in shown
    assert "and 2 more" in shown
    assert "1 row the same as an earlier row: 30" in shown
    assert "columns that nothing uses: mood (30 rows)" in shown
    bench.close()


def test_the_panel_follows_the_settings_and_says_what_it_cannot_read(bad_rows) -> None:
    state = WorkbenchState(TrainConfig())
    panel = DataPanel(state)
    panel.wait()
    assert "4,000 rows" in _text(panel.view.value)
    state.set(data="nowhere.jsonl")
    panel.wait()
    assert "nowhere.jsonl: no such file or folder" in panel.view.value
    state.set(data=str(bad_rows), limit=3)
    panel.wait()
    assert "3 pairs to train on" in _text(panel.view.value)
    state.set(data="owner/name")
    panel.wait()
    assert "owner/name is read when training begins" in panel.view.value
    panel.close()
    state.set(data="reviews")
    assert "owner/name" in panel.view.value


def test_a_run_shows_what_the_tokenizer_left_out_too(tmp_path) -> None:
    rows = [
        {"prompt": f"the plot was {word}", "chosen": "great", "rejected": "awful"}
        for word in "good fine great awful superb warm strong flat".split()
    ]
    rows[3]["rejected"] = "great "  # other text, the same tokens
    bench = Workbench(data=rows, folder=tmp_path, held_out=0.3, **QUICK)
    run = bench.train().wait(60)
    shown = _text(bench.data.view.value)
    report = _text(report_of(Run.open(run.folder)).read_text())
    line = "row 4, 'rejected': same tokens as chosen"
    assert line in shown and line in report
    assert f"{len(run.job.train)} pairs to train on" in shown
    assert f"{len(run.job.train)} pairs to train on" in report
    bench.close()


def test_the_report_names_rows_by_number_and_reason(bad_rows, tmp_path) -> None:
    job = prepare(TrainConfig(data=str(bad_rows), **QUICK))
    run = open_or_create(Run(tmp_path / "run"), job)
    list(train(job, run=run))
    shown = _text(report_of(run).read_text())
    assert "row 1, 'rejected': missing" in shown and "and 2 more" in shown
    assert "mood (30 rows)" in shown


def test_text_of_the_data_is_escaped() -> None:
    attack = "<img src=x onerror=alert(1)>"
    problem = {"row": 1, "column": attack, "reason": attack, "detail": attack}
    report = {
        "source": attack, "rows": 2, "kept": 1, "skipped": {attack: 1}, "problems": [problem],
        "unused_columns": {attack: 2}, "unused_fields": {attack: 1},
    }  # fmt: skip
    pairs = {"train": 1, "held_out": 0, "prompts": 0}
    facts = {
        "pairs": pairs, "load_reports": [report], "tokens": attack, "token_problems": [problem],
    }  # fmt: skip
    for html in (data_list(facts), data_fold(facts)):
        assert "<img" not in html and html.count("&lt;img") >= 8


def test_an_older_run_has_its_lines(tmp_path) -> None:
    facts = {"data": ["mine (train): 25 pairs from 30 rows", "mine (train): 25 pairs from 30 rows"]}
    assert _text(data_list(facts)) == "mine (train): 25 pairs from 30 rows"
    assert data_list({}) == ""
