"""A run folder that an earlier version wrote: it loads, goes on, and is drawn by today's names.

`old_run` was stopped at step 4 of 6, before records had today's keys and checkpoints checksums.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dpo_lab.models.loading import load_model
from dpo_lab.training.loop import train
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import prepare
from dpo_lab.training.start_or_resume import open_or_create
from dpo_lab.ui.report.summary import report_of

OLD = Path(__file__).parent / "old_run"


@pytest.fixture
def old(tmp_path) -> Run:
    return Run(Path(shutil.copytree(OLD, tmp_path / "run")))


def test_records_are_read_by_the_keys_of_today(old):
    lines = [json.loads(line) for line in (OLD / "metrics.jsonl").read_text().splitlines()]
    records = old.records()
    assert [record.step for record in records] == [0, 1, 2, 3, 4]
    assert records[3]["kl/per_token"] == lines[3]["kl/policy"]
    assert records[3]["kl/per_token_stderr"] == lines[3]["kl/policy_stderr"]
    assert records[3]["kl/k1"] == lines[3]["kl/log_ratio"]
    assert records[3]["eval/logratios/chosen"] == lines[3]["eval/drift/chosen"]
    assert records[4]["logratios/chosen_negative"] == lines[4]["displacement/chosen_fell"]
    assert not [key for key in records[3].values if "drift" in key or key == "kl/policy"]


def test_it_goes_on_and_is_drawn(old):
    job = prepare(old.config)
    run = open_or_create(old, job)
    records = run.records()
    after = list(train(job, run=run))
    assert [record.step for record in after] == [5, 6] and run.summary["state"] == "done"
    assert [record.step for record in run.records()] == [0, 1, 2, 3, 4, 5, 6]
    assert after[-1]["kl/per_token"] > 0 and after[-1]["eval/loss"] < records[3]["eval/loss"]
    page = report_of(run).read_text()
    assert "KL(policy" in page and "step 6" in page


def test_its_checkpoint_loads_though_its_base_lies_elsewhere_now(old):
    assert load_model(old.path / "checkpoint", device="cpu").tokenizer is not None
