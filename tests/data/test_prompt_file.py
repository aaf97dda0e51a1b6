"""Prompts out of files."""

from __future__ import annotations

import json

import pytest

from dpo_lab.data.prompt_file import read_prompts


def test_lines_rows_and_messages(tmp_path):
    text = tmp_path / "p.txt"
    text.write_text("one\n\n two \none\n")
    assert read_prompts(text) == ["one", "two"]
    turns = [{"role": "user", "content": "Hi"}]
    rows = tmp_path / "p.jsonl"
    lines = [{"prompt": "one"}, {"prompt": turns, "chosen": "x"}, {"prompt": json.dumps(turns)}]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_prompts(rows) == ["one", turns]


def test_a_row_without_a_prompt_is_named(tmp_path):
    rows = tmp_path / "p.jsonl"
    rows.write_text('{"prompt": "one"}\n{"question": "two"}\n')
    with pytest.raises(ValueError, match="row 2: has no column 'prompt'"):
        read_prompts(rows)
    with pytest.raises(FileNotFoundError):
        read_prompts(tmp_path / "none.jsonl")
