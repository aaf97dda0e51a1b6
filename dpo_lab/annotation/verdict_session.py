"""The session of one judge in a comparison's folder, with what its verdicts depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpo_lab.annotation.questions import Answer
from dpo_lab.annotation.session import Session
from dpo_lab.annotation.side_answers import AnswerPair
from dpo_lab.training.files import as_file_name, read_json, write_json


def open_verdicts(folder: Path, judge: str, facts: Mapping[str, Any]) -> Session:
    """The session that holds a judge's verdicts, new or continued.

    Args:
        folder: Of the comparison.
        judge: Name of the judge.
        facts: What its verdicts depend on, as plain values, nothing secret among them.

    Raises:
        FileExistsError: If it holds verdicts of the same judge under other settings.
    """
    path = folder / "judges" / as_file_name(judge)
    session = Session(path)
    try:
        note = path / "judge.json"
        if note.exists() and session.clicks and read_json(note) != dict(facts):
            raise FileExistsError(
                f"{path}: holds verdicts of {judge!r} with other settings. Remove it, or give "
                "another folder."
            )
        write_json(note, dict(facts))
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
