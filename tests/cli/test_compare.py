"""`compare` from runs to page: the policies of tiny runs, judged by a reward and over the wire."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading

import pytest
from chat_server import chat_server
from command_line import run_cli

from dpo_lab.annotation.blind import a_is_left, blind_questions
from dpo_lab.annotation.side_answers import AnswerPair
from dpo_lab.annotation.verdict_session import open_verdicts
from dpo_lab.data.reviews import reward
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.run_job import run_job

KEY = "sk-secret-27182818"
DRAWN = ("--samples", 6, "--temperature", 1, "--device", "cpu", "--json")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that learn different things: one from right labels, one from turned ones."""
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    how = {"steps": 25, "batch_pairs": 16, "learning_rate": 3e-3, "eval_every": 0, "beta": 0.2}
    for name in ("good", "other"):
        seed = {"good": 0, "other": 1}[name]
        run_job(TrainConfig(**how, seed=seed, device="cpu"), folder / name)
    return folder


def compared(capsys, *words) -> dict:
    code, out, err = run_cli(capsys, "compare", *words, *DRAWN)
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


def test_a_run_beats_its_reference_and_the_page_says_so(runs, capsys, tmp_path):
    out = tmp_path / "out"
    found = compared(capsys, "--run", runs / "good", "--reference", "--out", out)
    (judge,) = found["judges"]
    assert judge["judge"] == "the score of reviews" and found["answers"] == 30
    assert judge["win"]["rate"]["mean"] > 0.6 and judge["win"]["first"] is None
    sides = [
        [json.loads(line) for line in (out / f"{side}.jsonl").read_text().splitlines()]
        for side in "ab"
    ]
    assert sides[0][0]["seed"] == 0 and sides[1][0]["seed"] == 1, "independent draws"
    # The win rate by hand from the files: each of the five prompts has six pairs of answers.
    prompts = [p for p in _held_out(runs / "good") for _ in range(6)]
    wins = []
    for prompt, a, b in zip(prompts, sides[0][1:], sides[1][1:], strict=True):
        ra, rb = reward(prompt, a["text"]), reward(prompt, b["text"])
        wins.append(0.5 if ra == rb or a["text"] == b["text"] else float(ra > rb))
    assert judge["win"]["rate"]["mean"] == pytest.approx(sum(wins) / 30)
    page = (out / "report.html").read_text()
    assert f"{100 * judge['win']['rate']['mean']:.1f} %" in page and "<script" not in page
    assert "does not know" in found["notes"][0], "micro cannot read neutral text"


def _held_out(path) -> list[str]:
    from dpo_lab.training.runs import Run
    from dpo_lab.training.setup import load_data

    return load_data(Run(path).config)[1].prompts


def test_two_runs_own_prompts_and_a_judge_over_the_wire_that_prefers_the_first(
    runs, capsys, tmp_path, monkeypatch
):
    """It says first three times in four: the bias is seen, and nothing is asked twice."""
    monkeypatch.setenv("MY_KEY", KEY)
    prompts, out = tmp_path / "own.txt", tmp_path / "out"
    prompts.write_text("the plot was\nthe music was\n\nthe plot was\nthe acting felt\n")
    seen: list[str] = []

    def judge(text: str):
        if "Oslo" in text:  # whether it works at all
            return 200, "[[A]]"
        seen.append(text)
        if len(seen) == 5:
            return 200, "no idea"
        return 200, "[[B]]" if hash_of(text) % 4 == 0 else "[[A]]"

    def hash_of(text: str) -> int:
        return sum(map(ord, text.partition("<answer")[2].partition("Give one")[0]))

    words = ["--run", runs / "good", "--run", runs / "other", "--prompts", prompts, "--out", out]
    with chat_server(judge) as server:
        wire = ["--url", server.url, "--judge-model", "judge-7b", "--key-from", "MY_KEY"]
        found = compared(capsys, *words, *wire, "--workers", 1)
        count = len(seen)
        again = compared(capsys, *words, *wire)
        assert len(seen) == count, "nothing is asked twice"
    truth, wired = found["judges"]
    assert wired["judge"] == "judge-7b" and found["answers"] == 18
    asked = 18 - found["same"]
    assert count == 2 * asked == wired["verdicts"] + wired["no_verdict"]
    assert wired["no_verdict"] == 1 and "no idea" in found["notes"][-2] + found["notes"][0]
    assert wired["win"]["first"]["mean"] > 0.6 and wired["win"]["flips"]["mean"] > 0.3
    assert wired["controlled"] is None, "three prompts are too few for it"
    assert found["agreement"]["the score of reviews and judge-7b"]["share"]["n"] == 3
    assert again["judges"] == found["judges"]
    replies = (out / "judges" / "judge-7b" / "replies.jsonl").read_text().splitlines()
    assert len(replies) == count and '"reply": "no idea"' in replies[4]
    for file in out.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes()
    assert found["a"] == "good" and found["b"] == "other"


def test_a_person_s_choices_in_the_folder_are_part_of_the_result(runs, capsys, tmp_path):
    words = ("--run", runs / "good", "--prompt", "the plot was", "the music was", "--out", tmp_path)
    found = compared(capsys, *words)
    lines = [
        [
            json.loads(line)["text"]
            for line in (tmp_path / f"{side}.jsonl").read_text().splitlines()[1:]
        ]
        for side in "ab"
    ]
    assert [one["judge"] for one in found["judges"]] == ["the score of reviews"]
    number = next(
        at for at, (a, b) in enumerate(zip(*lines, strict=True)) if a.strip() != b.strip()
    )
    a, b = (side[number] for side in lines)
    session = open_verdicts(tmp_path, "you", {"sees_order": True})
    prompt = "the plot was" if number < 6 else "the music was"
    (question,) = blind_questions([AnswerPair(number, prompt, a, b)], 0, 1)
    session.add(question, "A" if a_is_left(question) else "B")
    open_elsewhere = compared(capsys, *words)
    assert "verdicts of you are open elsewhere" in " ".join(open_elsewhere["notes"])
    session.close()
    again = compared(capsys, *words)
    assert [one["judge"] for one in again["judges"]] == ["the score of reviews", "you"]
    assert again["judges"][1]["win"]["won"] == 1 and again["judges"][1]["verdicts"] == 1
    assert list(again["agreement"]) == ["the score of reviews and you"]


@pytest.mark.slow
def test_after_a_kill_no_verdict_is_lost_and_none_is_asked_again(runs, capsys, tmp_path):
    """Killed while the eighth question is being answered: that one alone is asked twice."""
    asked: list[str] = []
    reached, killed = threading.Event(), threading.Event()

    def judge(text: str):
        if "Oslo" in text:
            return 200, "[[A]]"
        asked.append(text)
        if len(asked) == 8:
            reached.set()
            killed.wait(60)
        return 200, "[[A]]"

    with chat_server(judge) as server:
        words = [
            "--run", runs / "good", "--out", tmp_path / "out", "--url", server.url,
            "--judge-model", "j", "--workers", 1, *DRAWN,
        ]  # fmt: skip
        command = [sys.executable, "-m", "dpo_lab", "compare", *map(str, words)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        assert reached.wait(120)
        process.kill()
        process.wait(30)
        killed.set()
        code, out, err = run_cli(capsys, "compare", *words)
        assert code == 0, err
    found = json.loads(out.splitlines()[-1])
    different = found["answers"] - found["same"]
    assert found["judges"][1]["verdicts"] == 2 * different
    assert len(asked) == 2 * different + 1 and asked[7] == asked[8]


def test_the_table_says_it_in_words(runs, capsys, tmp_path):
    code, out, _ = run_cli(
        capsys, "compare", "--run", runs / "good", "--against", "micro", "--prompt",
        "the plot was", "the music was", "--out", tmp_path, "--device", "cpu", "--no-neutral",
    )  # fmt: skip
    assert code == 0
    assert re.search(r"good wins [\d.]+ % \([\d.]+ to [\d.]+\) against micro; of 2 prompts", out)
    assert "is seen four times in five" in out and str(tmp_path / "report.html") in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--run: give one run"),
        (("--run", "RUN", "--reference", "--against", "micro"), "B is one of them"),
        (("--run", "RUN", "--url", "http://localhost/v1"), "a judge takes both"),
        (("--run", "RUN", "--samples", "2"), "all answers to a prompt are the same"),
        (("--run", "RUN", "--prompt", " x", "--prompts", "f.txt"), "only one of them"),
        (("--run", "RUN", "--url", "http://h/v1", "--judge-model", "m", "--key-from", "NONE"),
         "NONE: this environment variable is not set"),
        (("--run", "RUN", "--url", "http://h/v1", "--judge-model", "m", "--orders", "3"),
         "orders=3"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_before_anything_is_drawn(runs, capsys, tmp_path, words, said):
    out = tmp_path / "out"
    words = [runs / "good" if word == "RUN" else word for word in words]
    code, _, err = run_cli(capsys, "compare", *words, "--out", out)
    assert code == 2 and said in err and not out.exists()


def test_a_judge_that_does_not_work_is_found_before_anything_is_drawn(runs, capsys, tmp_path):
    out = tmp_path / "out"
    with chat_server(lambda text: (404, {"error": "no such model"})) as server:
        code, _, err = run_cli(
            capsys, "compare", "--run", runs / "good", "--url", server.url, "--judge-model", "x",
            "--out", out,
        )  # fmt: skip
    assert code == 2 and "no such model" in err and not out.exists()


def test_a_folder_of_another_comparison_is_refused(runs, capsys, tmp_path):
    words = ("--run", runs / "good", "--prompt", "the plot was", "--out", tmp_path)
    compared(capsys, *words)
    code, _, err = run_cli(capsys, "compare", *words, *DRAWN, "--seed", 5)
    assert code == 2 and "other weights, to other prompts or drawn in another way" in err
