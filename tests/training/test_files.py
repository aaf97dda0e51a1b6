"""Tables: every column of every row, and a file that a kill leaves whole."""

import csv
import os

import pytest
from kills import Killed, killed
from pyarrow import parquet

from dpo_lab.training.files import write_table

ROWS = [{"run": "a", "loss": 0.5}, {"run": "b", "kl": 2.0}]
WHOLE = [{"run": "a", "loss": 0.5, "kl": None}, {"run": "b", "loss": None, "kl": 2.0}]


def test_a_table_has_the_columns_that_its_first_row_lacks(tmp_path):
    assert parquet.read_table(write_table(ROWS, tmp_path / "t.parquet")).to_pylist() == WHOLE
    with write_table(ROWS, tmp_path / "t.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert found == [{k: "" if v is None else str(v) for k, v in row.items()} for row in WHOLE]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_kill_leaves_the_table_of_before(tmp_path, monkeypatch, name):
    path = write_table(ROWS, tmp_path / name)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(Killed):
            write_table(ROWS * 50, path)
    assert path.read_bytes() == before
    assert write_table(ROWS * 50, path).read_bytes() != before
