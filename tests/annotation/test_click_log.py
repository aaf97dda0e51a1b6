"""Files of clicks that were cut short, changed by hand or interrupted: what is kept and told."""

from __future__ import annotations

import pytest
from clicks import question, rows, what_it_holds

from dpo_lab import load_preferences
from dpo_lab.annotation import click_log, session as annotations
from dpo_lab.annotation.session import Session


def test_a_line_cut_at_any_byte_loses_that_click_alone_and_is_told(tmp_path) -> None:
    session = Session(tmp_path)
    for choice in "AB":
        session.add(question(session), choice)
    whole = session.log.read_bytes()
    session.close()
    last = whole.index(b"\n") + 1
    for end in range(last, len(whole) + 1):
        (tmp_path / "clicks.log").write_bytes(whole[:end])
        (tmp_path / "preferences.jsonl").unlink()
        session = Session(tmp_path)
        kept = 2 if end >= len(whole) - 1 else 1  # the last byte is the line's end alone
        assert len(session.answers) == len(rows(session)) == kept
        assert bool(session.notes) == (last < end < len(whole) - 1)
        session.add(question(session), "B")
        session.close()
        assert len((tmp_path / "clicks.log").read_bytes().splitlines()) == kept + 1


def test_a_line_broken_before_the_last_is_named(tmp_path) -> None:
    session = Session(tmp_path)
    for choice in "ABA":
        session.add(question(session), choice)
    session.close()
    lines = session.log.read_bytes().splitlines(keepends=True)
    for broken in (b"{\n", b"[1]\n", b'{"choice": "C"}\n', b'{"choice": "undo", "number": 7}\n'):
        session.log.write_bytes(lines[0] + broken + lines[2])
        with pytest.raises(ValueError, match=r"clicks\.log, line 2: broken \(.*fix the line"):
            Session(tmp_path)
    session.log.write_bytes(b"".join(lines))
    Session(tmp_path).close()  # it was not left locked


STRANGE = b'{"choice": "both", "number": 2}'


@pytest.mark.parametrize("last", [STRANGE + b"\n", STRANGE, b"{\n", b"\n"])
def test_a_whole_last_line_that_is_not_understood_is_refused_and_stays(tmp_path, last) -> None:
    session = Session(tmp_path)
    session.add(question(session), "A")
    session.close()
    log = session.log.read_bytes() + last
    session.log.write_bytes(log)
    with pytest.raises(ValueError, match=r"clicks\.log, line 2: broken .*another version: fix"):
        Session(tmp_path)
    assert session.log.read_bytes().rstrip(b"\n") == log.rstrip(b"\n")
    assert len(rows(session)) == 1 and not (tmp_path / "clicks.log.cut").exists()


def test_what_is_cut_off_the_log_is_kept(tmp_path) -> None:
    session = Session(tmp_path)
    session.add(question(session), "A")
    session.close()
    whole, torn = session.log.read_bytes(), (b'{"choi', b'{"choice"\0\0', b"\0\0\0", b'{"\0\n')
    for end in torn:
        session.log.write_bytes(whole + end)
        again = Session(tmp_path)
        again.close()
        assert "cut short" in again.notes[0] and "clicks.log.cut" in again.notes[0]
        assert again.log.read_bytes() == whole and len(again.answers) == 1
    kept = (tmp_path / "clicks.log.cut").read_bytes()
    assert kept.split(b"\n") == [end.removesuffix(b"\n") for end in torn] + [b""]


def test_pairs_without_a_log_are_not_overwritten(tmp_path) -> None:
    file = tmp_path / "preferences.jsonl"
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    before = file.read_bytes()
    for _ in range(2):  # nothing is left that would let the second one in
        with pytest.raises(ValueError, match="there are pairs, but no clicks.log.*another folder"):
            Session(tmp_path)
    assert file.read_bytes() == before


def test_pairs_changed_by_hand_are_kept_beside_and_told(tmp_path) -> None:
    session = Session(tmp_path)
    session.add(question(session), "A")
    session.file.write_text("mine\n")
    session.add(question(session), "B")
    assert "preferences.jsonl.before" in session.notes[0] and len(rows(session)) == 2
    session.close()
    session.file.write_bytes(b"\xff")
    again = Session(tmp_path)
    again.close()
    assert rows(again) == again.pairs and len(again.notes) == 1
    assert (tmp_path / "preferences.jsonl.before").read_text() == "mine\n"
    assert (tmp_path / "preferences.jsonl.before.2").read_bytes() == b"\xff"
    assert len(load_preferences(tmp_path)) == 2  # what is kept is no part of the data
    third = Session(tmp_path)
    third.close()
    assert third.notes == []


def test_a_path_that_is_a_file_is_told(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path / "notes.txt", tmp_path / "notes.txt" / "below"):
        with pytest.raises(
            NotADirectoryError, match="is a file, but a session is a folder. Give another"
        ):
            Session(path)


@pytest.mark.parametrize("place", ["taking", "syncing", "taken"])
@pytest.mark.parametrize("undo", [False, True])
def test_an_interrupt_leaves_memory_as_the_log_has_it(session, monkeypatch, place, undo) -> None:
    for choice in "AB":
        session.add(question(session), choice)
    asked = question(session)
    do = session.undo if undo else lambda: session.add(asked, "A")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _interrupt(patch, place)
        do()
    log = session.log.read_text().splitlines()
    assert len(log) == session.clicks == (2 if place == "syncing" else 3)
    assert len(session.answers) == (2 if place == "syncing" else 1 if undo else 3)
    session.undo()
    session.add(question(session), "tie")
    before = what_it_holds(session)
    session.close()
    again = Session(session.path)
    assert what_it_holds(again) == before and rows(again) == again.pairs and not again.notes
    again.close()


def _interrupt(patch, place: str) -> None:
    """Once, before a click is taken into memory, in the midst of its writing, or after both."""
    owner, name = (click_log.os, "fsync") if place == "syncing" else (Session, "_take")
    step = getattr(owner, name)

    def once(*arguments) -> None:
        patch.setattr(owner, name, step)
        if place == "taken":
            step(*arguments)
        raise KeyboardInterrupt

    patch.setattr(owner, name, once)


def test_interrupted_twice_it_reads_the_log_before_it_goes_on(session, monkeypatch) -> None:
    first = question(session)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Session, "_take", _stop)  # of the click, and of reading the log again
        session.add(first, "A")
    with pytest.raises(ValueError, match="question 1: answered already. Take that answer back"):
        session.add(first, "B")
    assert [answer.choice for answer in session.answers] == ["A"]
    assert session.undo() == first and session.log.read_text().count("\n") == 2


def _stop(*arguments) -> None:
    raise KeyboardInterrupt


def test_a_click_that_cannot_be_written_changes_nothing(session, monkeypatch) -> None:
    session.add(question(session), "A")
    before, log = what_it_holds(session), session.log.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(click_log.os, "fsync", _no_space)
        session.add(question(session), "B")
    assert what_it_holds(session) == before and session.log.read_bytes() == log
    session.add(question(session), "B")
    assert len(rows(session)) == 2


def _no_space(*arguments) -> None:
    raise OSError("no space left")


def test_a_kill_between_log_and_pairs_is_made_good_when_the_session_is_opened(
    tmp_path, monkeypatch
) -> None:
    session = Session(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(annotations, "write_text", _no_space)
        session.add(question(session), "A")
    assert rows(session) == [] and len(session.answers) == 1
    session.close()
    again = Session(tmp_path)
    assert rows(again) == again.pairs and len(again.pairs) == 1
    again.close()
