"""Clicks on disk: what is derived from the log, and that no acknowledged click is ever lost."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
import threading
from dataclasses import replace

import pytest
from clicks import question, rows, what_it_holds
from datasets import load_dataset
from hypothesis import given, settings, strategies as st

from dpo_lab import load_preferences
from dpo_lab.annotation.questions import Question
from dpo_lab.annotation.session import Session

KILLS = 25


def test_a_click_makes_a_row_of_what_was_where(session: Session) -> None:
    for choice in ("A", "B", "tie", "skip"):
        session.add(question(session), choice)
    assert (
        rows(session)
        == session.pairs
        == [
            {"prompt": "the plot was", "chosen": "left 1", "rejected": "right 1"},
            {"prompt": "the plot was", "chosen": "right 2", "rejected": "left 2"},
        ]
    )
    assert [session.count(choice) for choice in ("A", "B", "tie", "skip")] == [1, 1, 1, 1]


def test_undo_takes_the_row_back_keeps_the_log_and_asks_again(session: Session) -> None:
    first, second = question(session), None
    session.add(first, "A")
    second = question(session)
    session.add(second, "tie")
    assert session.undo() == second and session.undo() == first and session.undo() is None
    assert rows(session) == [] and session.taken_back == [second, first]
    session.add(first, "B")
    assert session.taken_back == [second] and rows(session)[0]["chosen"] == "right 1"
    choices = [json.loads(line)["choice"] for line in session.log.read_text().splitlines()]
    assert choices == ["A", "tie", "undo", "undo", "B"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["A", "B", "tie", "skip", "undo"]), max_size=25))
def test_the_files_follow_every_click_and_a_session_opened_again_is_the_same(clicks) -> None:
    with tempfile.TemporaryDirectory() as folder:
        session, stack = Session(folder), []
        for click in clicks:
            if click == "undo":
                session.undo()
                stack = stack[:-1]
            else:
                stack.append((question(session), click))
                session.add(*stack[-1])
            held = [("left" if c == "A" else "right", q.number) for q, c in stack if c in "AB"]
            assert [row["chosen"] for row in rows(session)] == [f"{s} {n}" for s, n in held]
        before = what_it_holds(session)
        session.close()
        again = Session(folder)
        assert what_it_holds(again) == before and again.notes == []
        again.close()


def test_a_session_is_open_once(session: Session, tmp_path) -> None:
    with pytest.raises(FileExistsError, match="open already.*Close it there"):
        Session(session.path)
    code = f"from dpo_lab.annotation.session import Session; Session({str(session.path)!r})"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "FileExistsError" in other.stderr
    closer = threading.Thread(target=session.close)  # another thread than the one that opened it
    closer.start()
    closer.join()
    with pytest.raises(ValueError, match="was closed. Open it again"):
        session.add(question(session), "A")
    Session(session.path).close()


def test_an_unknown_choice_is_refused(session: Session) -> None:
    with pytest.raises(ValueError, match="choice='C': unknown. Use one of A, B, tie, skip"):
        session.add(question(session), "C")
    assert session.clicks == 0


def test_agreement_with_oneself_by_hand(session: Session) -> None:
    for choice in ("A", "A", "tie", "tie", "skip", "B"):
        session.add(question(session), choice)
    # Asked again with sides swapped: the same winner, another, a tie again, no tie, skips.
    for number, choice in zip(range(1, 7), ("B", "A", "tie", "A", "A", "skip"), strict=True):
        old = session.answers[number - 1].question
        swapped = replace(old, number=session.next_number, a=old.b, b=old.a, repeats=number)
        session.add(swapped, choice)
    assert session.agreements == [True, False, True, False]
    session.undo()
    session.undo()
    session.undo()
    assert session.agreements == [True, False, True]


HOSTILE = "\"quoted\" \\ 'single'\nnew line\r\n\u2028 \x0b <script>1</script> 你好 \U0001f600"


@pytest.mark.parametrize("prompt", [HOSTILE, [{"role": "user", "content": HOSTILE}]])
def test_the_pairs_are_read_by_the_lab_and_have_the_columns_of_trl(tmp_path, prompt) -> None:
    session = Session(tmp_path)
    for choice in ("A", "tie", "B"):
        number = session.next_number
        session.add(Question(number, prompt, f"a {HOSTILE}", f"b {HOSTILE}", number), choice)
    session.close()
    for source in (session.file, session.path):
        pairs = load_preferences(source)
        assert [pair.prompt for pair in pairs] == [prompt] * 2
    plain = isinstance(prompt, str)
    chosen = f"a {HOSTILE}" if plain else [{"role": "assistant", "content": f"a {HOSTILE}"}]
    assert pairs[0].chosen == chosen
    data = load_dataset(
        "json", data_files=str(session.file), split="train", cache_dir=str(tmp_path / "hub")
    )
    assert data.column_names == ["prompt", "chosen", "rejected"]
    assert data[0]["prompt"] == prompt and data[0]["chosen"] == chosen


# One process imports everything once and forks a child for each life; a child clicks on until it is
# killed, and notes each click that it was told is on the disk.
CLICKER = textwrap.dedent(
    """
    import json, os, random, signal, sys, time
    from dpo_lab.annotation.session import Question, Session

    folder, kills = sys.argv[1], int(sys.argv[2])

    def live(seed):
        choose, session = random.Random(seed), Session(folder)
        told = os.open(folder + "/told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        while True:
            if choose.random() < 0.15 and session.answers:
                session.undo()
            else:
                n = session.next_number
                new = Question(n, "the plot was", f"left {n}", f"right {n}", n)
                question = session.taken_back[-1] if session.taken_back else new
                session.add(question, choose.choice(["A", "B", "tie", "skip"]))
            os.write(told, b"%d %d\\n" % (session.clicks, len(session.answers)))

    for kill in range(kills):
        child = os.fork()
        if child == 0:
            live(kill)
        time.sleep(random.Random(kill).uniform(0.005, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        told = [0, 0]
        if os.path.exists(folder + "/told"):
            lines = open(folder + "/told").read().splitlines()
            told = list(map(int, lines[-1].split()))
        session = Session(folder)
        rows = [json.loads(line) for line in open(session.file)]
        found = [session.clicks, len(session.answers)]
        print(json.dumps([told, found, rows == session.pairs]), flush=True)
        session.close()
    """
)


@pytest.mark.slow
def test_kill_9_at_random_moments_loses_no_acknowledged_click(tmp_path) -> None:
    command = [sys.executable, "-c", CLICKER, str(tmp_path), str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lives = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lives) == KILLS
    known = 0
    for (told, answers), (clicks, found), rows_are_right in lives:
        # At most one click more than was told, of this life or of one before it.
        assert max(told, known) <= clicks <= max(told, known) + 1 and rows_are_right
        assert clicks > told or found == answers
        known = clicks
    assert known > 50
