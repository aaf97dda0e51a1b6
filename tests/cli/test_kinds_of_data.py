"""Scores, rankings and thumbs from the command line: trained on, or refused with a way out."""

from __future__ import annotations

import json

import pytest
from command_line import run_cli

from dpo_lab.training.runs import Run

QUICK = ("--steps", 2, "--batch-pairs", 6, "--held-out", 0, "--eval-every", 0, "--seed", 1)
PROMPTS = ("the plot was", "the finale felt")
RANKED = [
    {"prompt": prompt, "responses": ["really good", "fine", "flat", "very bad"],
     "scores": [4, 3, 2, 2]}
    for prompt in PROMPTS
]  # fmt: skip
THUMBS = [
    {"prompt": prompt, "completion": said, "label": good}
    for prompt in PROMPTS
    for said, good in (("good", True), ("warm", True), ("bad", False))
]
CASES = [
    (THUMBS, ("--loss", "kto"), "6 single responses (4 good, 2 bad) from 6 rows; read as thumbs"),
    (THUMBS, ("--pair-up", "all", "--batch-pairs", 4), "4 pairs of 6 single responses, 0 unp"),
    (RANKED, ("--loss", "odpo"), "10 pairs from 2 rows; read as ranked responses; 2 ties left out"),
    (RANKED, ("--loss", "plackett_luce", "--ranked-pairs", "best"), "6 pairs from 2 rows; read"),
]


@pytest.mark.parametrize("rows, words, said", CASES, ids=lambda value: str(value)[:20])
def test_each_kind_of_data_trains_and_says_what_it_is(rows, words, said, tmp_path, capsys):
    data, folder = tmp_path / "data.jsonl", tmp_path / "run"
    data.write_text("\n".join(map(json.dumps, rows)))
    code, out, _ = run_cli(capsys, "train", "--data", data, "--out", folder, *QUICK, *words)
    assert code == 0 and said in " ".join(out.split())
    run = Run(folder)
    assert run.records()[-1].step == 2 and said in " ".join(run.environment["data"])


def test_thumbs_under_a_loss_of_pairs_are_refused_with_both_ways_out(tmp_path, capsys):
    data = tmp_path / "thumbs.jsonl"
    data.write_text("\n".join(map(json.dumps, THUMBS)))
    code, _, told = run_cli(capsys, "train", "--data", data, "--out", tmp_path / "run", *QUICK)
    told = " ".join(told.split())
    assert code and "--loss kto" in told and "--pair-up all" in told
    assert not (tmp_path / "run").exists()
