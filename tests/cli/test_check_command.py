"""`dpo-lab check`: what it prints, its exit codes, its files."""

import json

import pytest
from command_line import run_cli

ROW = {"prompt": "the acting felt", "chosen": "great", "rejected": "bad"}


@pytest.fixture
def pairs(tmp_path):
    """Twenty pairs; one of them, turned around, is there again, and one row is malformed."""
    rows = [ROW | {"prompt": f"the acting felt {n}", "chosen": f"great {n}"} for n in range(20)]
    rows.append(rows[3] | {"chosen": "bad", "rejected": "great 3"})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    return path


def test_it_prints_findings_with_rows_and_switches(pairs, capsys):
    code, out, _ = run_cli(capsys, "check", "--data", pairs)
    words = " ".join(out.split())
    assert code == 0
    assert f"{pairs}: 22 rows, 21 pairs can be used" in words
    assert "SERIOUS The same pair with both labels: 2 of 21 (9.5%)" in words
    assert "train row 4: the acting felt 3 | the other way round in row 21" in words
    assert "--label-smoothing" in words
    assert "Rows skipped: truncated or malformed JSON: 1 of 22" in words
    assert "Cost by the first pairs: 2 steps" in words  # 19 of 21 pairs, 16 a step


def test_strict_is_for_scripts(pairs, tmp_path, capsys):
    code, out, _ = run_cli(capsys, "check", "--data", pairs, "--strict", "--json", "--no-cost")
    found = json.loads(out)
    assert code == 1 and found["cost"] is None and found["usable"] == 21
    clean = tmp_path / "clean.jsonl"
    clean.write_text("".join(pairs.read_text().splitlines(keepends=True)[:20]))
    code, _, _ = run_cli(capsys, "check", "--data", clean, "--strict", "--json", "--no-cost")
    assert code == 1, "the longer one is chosen in each"
    clean.write_text(json.dumps(ROW | {"rejected": "awful"}) + "\n")
    code, out, _ = run_cli(capsys, "check", "--data", clean, "--strict", "--json", "--no-cost")
    assert code == 0


def test_it_writes_rows_and_a_page(pairs, tmp_path, capsys):
    page, rows = tmp_path / "a" / "check.html", tmp_path / "rows.jsonl"
    clean = tmp_path / "clean"
    words = ("--out", page, "--rows-out", rows, "--clean-out", clean, "--no-cost")
    code, _, err = run_cli(capsys, "check", "--data", pairs, *words)
    assert code == 0 and f"page: {page}" in err
    assert "The same pair with both labels" in page.read_text()
    kept = (clean / "train.jsonl").read_text() + (clean / "test.jsonl").read_text()
    lines = pairs.read_text().splitlines()
    assert sorted(kept.splitlines()) == sorted(lines[:3] + lines[4:20])
    assert "clean rows: 17 to train on and 2 held out" in err
    named = [json.loads(line) for line in rows.read_text().splitlines()]
    assert {(one["finding"], one["row"]) for one in named} == {
        ("skipped", 22),
        ("both_labels", 4),
        ("both_labels", 21),
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--data", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
        (("--rows", "0"), "rows=0: must be at least 1"),
        (("--processes", "0"), "--processes 0: must be at least 1"),
        (("--max-length", "1"), "max_length=1: must be a finite number >= 2"),
    ],
)
def test_what_is_wrong_with_the_options(words, said, capsys):
    code, _, err = run_cli(capsys, "check", *words)
    assert code == 2 and said in err
