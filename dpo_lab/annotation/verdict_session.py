"""The session of one judge in a comparison's folder, with what its verdicts depend on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_lab.annotation.questions import Answer
from dpo_lab.annotation.session import Session
from dpo_lab.annotation.side_answers import AnswerPair
from dpo_lab.training.files import as_file_name, read_json, write_json

NOTE = "judge.json"


@dataclass(frozen=True)
class KeptVerdicts:
    """Verdicts that lie in a comparison's folder.

    Attributes:
        judge: Name of the judge.
        answers: What it answered.
        sees_order: Whether it could prefer a side.
    """

    judge: str
    answers: Sequence[Answer]
    sees_order: bool


def kept_verdicts(
    folder: Path, known: Collection[str] = ()
) -> tuple[list[KeptVerdicts], list[str]]:
    """The verdicts of all judges in a folder.

    Args:
        folder: Of the comparison.
        known: Judges to leave out.

    Returns:
        The verdicts, and what is left out because another process has it open, in words.
    """
    found, notes = [], []
    for note in sorted((folder / "judges").glob(f"*/{NOTE}")):
        facts = read_json(note)
        name = facts.get("judge", note.parent.name)
        if name in known:
            continue
        try:
            session = Session(note.parent)
        except FileExistsError:
            notes.append(f"The verdicts of {name} are open elsewhere, and left out.")
            continue
        session.close()
        found.append(KeptVerdicts(name, session.answers, facts.get("sees_order", True)))
    return found, notes


def folder_of(folder: Path, judge: str) -> Path:
    """Where the verdicts of a judge lie in a comparison's folder."""
    return folder / "judges" / as_file_name(judge)


def open_verdicts(folder: Path, judge: str, facts: Mapping[str, Any]) -> Session:
    """The session that holds a judge's verdicts, new or continued.

    Args:
        folder: Of the comparison.
        judge: Name of the judge.
        facts: What its verdicts depend on, as plain values, nothing secret among them.

    Raises:
        FileExistsError: If it holds verdicts of the same judge under other settings.
    """
    path = folder_of(folder, judge)
    session = Session(path)
    try:
        note, facts = path / NOTE, {"judge": judge, **facts}
        if note.exists() and session.clicks and read_json(note) != facts:
            raise FileExistsError(
                f"{path}: holds verdicts of {judge!r} with other settings. Remove it, or give "
                "another folder."
            )
        write_json(note, facts)
    except BaseException:
        session.close()
        raise
    return session


def check_about(pairs: Sequence[AnswerPair], answers: Sequence[Answer]) -> None:
    """Check that verdicts are about these answers.

    Raises:
        ValueError: If one is about others.
    """
    shown = {pair.number: {pair.a, pair.b} for pair in pairs}
    for answer in answers:
        question = answer.question
        if shown.get(question.draw) != {question.a, question.b}:
            raise ValueError(
                f"verdict on question {question.number}: is about other answers than those in the "
                "folder. Remove the folder of the judge, or give another folder."
            )
