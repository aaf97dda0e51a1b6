"""What no data, name or answer does to a terminal; and what is said where nothing can be done."""

import json
import logging
import os
import re
from pathlib import Path

import pytest

from dpo_lab.cli import commands
from dpo_lab.cli.commands import main
from dpo_lab.cli.output import new_console, print_rows, say, visible
from dpo_lab.cli.terminal import TerminalDisplay, print_outcome
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.records import SampleRecord
from dpo_lab.training.runs import Run

HOSTILE = {
    "escape": ("\x1b[31mred", r"\x1b[31mred"),
    "csi of one byte": ("\x9b2Jgone", r"\x9b2Jgone"),
    "title": ("\x1b]0;mine\x07", r"\x1b]0;mine\x07"),
    "link": ("\x1b]8;;http://x\x07click\x1b]8;;\x07", r"\x1b]8;;http://x\x07click\x1b]8;;\x07"),
    "bidi": ("ab\u202edc\u2066", r"ab\u202edc\u2066"),
    "back": ("good\b\b\b\bbad\r", r"good\x08\x08\x08\x08bad\r"),
    "half a letter": ("\udcff", r"\udcff"),
}  # fmt: skip
TEXT = " ".join(text for text, _ in HOSTILE.values())
SENT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize(("text", "shown"), HOSTILE.values(), ids=HOSTILE)
def test_what_steers_a_terminal_is_written_out(text, shown):
    assert visible(text) == shown


def test_words_of_any_language_stay_as_they_are():
    text = "héllo\tשלום, مرحبا\n👩‍🚀 日本 $5 [bold] :smile:"
    assert visible(text) == text


def test_no_print_path_sends_it(capsys, tmp_path):
    """Tables, lines, outcomes, progress and errors; the console's own colours are off here."""
    run = Run.create(tmp_path / "run", TrainConfig(data=TEXT.replace("\udcff", "")), {})
    samples = [SampleRecord(1, TEXT, f"[bold]{TEXT}", ":smile:")]
    score = {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 1}
    print_rows([{TEXT: TEXT}])
    print_rows([{TEXT: TEXT}], as_json=True)
    print_outcome(
        new_console(), {"outcome": {"what": TEXT, "before": score, "after": score}}, samples
    )
    say(TEXT)
    new_console().print(f"{TEXT}: this run is done.", markup=False)
    display = TerminalDisplay(new_console())
    display.spoken = -1e9
    display.on_wait(TEXT, 1, 2)
    for words in (["runs", "list", str(tmp_path)], ["runs", "show", str(run.path)]):
        main(words)
    for words in ([TEXT], ["train", TEXT], ["runs", "show", TEXT.replace("\udcff", "")]):
        with pytest.raises(SystemExit):
            main(words)
    printed = "".join(capsys.readouterr())
    assert not SENT.search(printed), repr(SENT.search(printed))
    assert printed.count(r"\x1b[31mred") >= 8
    assert "[bold]" in printed and ":smile:" in printed, "no markup, no emoji in people's text"


def test_what_the_lab_logs_is_said_in_the_same_way(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    capsys.readouterr()
    logging.getLogger("dpo_lab.models.loading").warning("%s: has no tokenizer", "base\x1b[31m\n")
    assert capsys.readouterr().err == "dpo-lab: base\\x1b[31m : has no tokenizer\n"


def told(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    printed = capsys.readouterr()
    assert stop.value.code == 2, printed
    assert printed.err.count("\n") == 1 and "Traceback" not in printed.err
    return printed.err


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def refuse(*words, **more):
        raise AssertionError("loaded before the folder was tried")

    monkeypatch.setattr("dpo_lab.training.run_job.prepare", refuse)
    monkeypatch.setattr("dpo_lab.training.sweep.sweep", refuse)


@pytest.mark.parametrize("command", [["train"], ["demo"], ["sweep", "--beta", "1", "2"]])
def test_a_folder_that_takes_nothing_is_found_before_anything_is_loaded(
    capsys, tmp_path, nothing_is_loaded, command
):
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "run")
    said = told(capsys, *command, "--out", out)
    assert f"{out}: nothing can be written there (Not a directory)" in said and "--out" in said


def test_looking_for_a_place_leaves_none(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["train", "--data", "none.jsonl", "--out", str(tmp_path / "a" / "b")])
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train --seed 99999999999999999999", "seed=99999999999999999999: must be at most"),
        ("train --batch-pairs 99999999999999999999", "the 4000 training pairs"),
        ("train --lora-rank 99999999999 --steps 1", "out of memory ("),
        ("sweep --beta 1 2 --workers 0", "workers=0: must be at least 1"),
        ("sweep --beta 1 2 --workers -3", "workers=-3: must be at least 1"),
        ("estimate --model nobody/nothing", "model 'nobody/nothing': no such folder"),
    ],
)
def test_absurd_sizes_and_names_are_refused_in_one_line(
    capsys, tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert message in told(capsys, *words.split())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "runs/a/x"), "runs/a/x: No space left on device"),
        (OverflowError("int too big"), "int too big"),
        (MemoryError(), "out of memory (MemoryError). Take fewer pairs"),
        (OSError("said by the lab"), "error: said by the lab"),
    ],
)
def test_an_error_of_the_system_is_one_line(capsys, monkeypatch, error, message):
    def parse(arguments):
        raise error

    monkeypatch.setattr(commands, "parse", parse)
    assert message in told(capsys)


def test_runs_of_the_command_line_and_of_notebooks_lie_in_one_place(capsys, tmp_path, monkeypatch):
    from dpo_lab.training.run_folders import runs_folder
    from dpo_lab.ui.workbench.workbench import Workbench

    root = tmp_path / "project"
    (root / "notebooks" / "deep").mkdir(parents=True)
    (root / ".git").write_text("")
    monkeypatch.delenv("DPO_LAB_RUNS", raising=False)
    places = {}
    for place in (root, root / "notebooks", root / "notebooks" / "deep", tmp_path):
        monkeypatch.chdir(place)
        places[place.relative_to(tmp_path).as_posix()] = os.path.realpath(runs_folder())
    assert places == {
        "project": str(root / "runs"), "project/notebooks": str(root / "runs"),
        "project/notebooks/deep": str(root / "runs"), ".": str(tmp_path / "runs"),
    }  # fmt: skip
    monkeypatch.chdir(root)
    words = "train --steps 1 --batch-pairs 2 --limit 8 --eval-every 0 --held-out 0"
    main(words.split())
    (mine,) = (path.parent for path in (root / "runs").glob("*/config.json"))
    monkeypatch.chdir(root / "notebooks")
    bench = Workbench(steps=1)
    assert Path(bench.shelf.folder).resolve() == root / "runs"
    assert mine.name in bench.shelf.runs
    bench.close()
    capsys.readouterr()
    main(["runs", "list"])
    assert mine.name in capsys.readouterr().out
    monkeypatch.setenv("DPO_LAB_RUNS", str(tmp_path / "other"))
    assert runs_folder() == tmp_path / "other"


def test_no_home_folder_is_taken_for_a_project(tmp_path, monkeypatch):
    from dpo_lab.training.run_folders import runs_folder

    (tmp_path / ".git").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DPO_LAB_RUNS", raising=False)
    monkeypatch.chdir(tmp_path / "work")
    assert runs_folder() == Path("runs")


def test_a_message_of_a_library_ends_with_a_sentence():
    from dpo_lab.data.quoting import shortened

    text = "First of all. Then  more,\nsaid at length: set 'A=1'. And the end."
    assert shortened(text, 999) == "First of all. Then more, said at length: set 'A=1'. And the end"
    assert shortened(text, 50) == "First of all"
    assert shortened("one two three four", 10) == "one two …"
    assert json.dumps(shortened(ValueError("no dot")), ensure_ascii=False) == '"no dot"'
