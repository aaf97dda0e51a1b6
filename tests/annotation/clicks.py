"""Questions to click on, and what a session holds."""

from __future__ import annotations

import json

from dpo_lab.annotation.questions import Question
from dpo_lab.annotation.session import Session


def question(session: Session, prompt="the plot was") -> Question:
    if session.taken_back:
        return session.taken_back[-1]
    number = session.next_number
    return Question(number, prompt, f"left {number}", f"right {number}", session.next_draw)


def rows(session: Session) -> list[dict]:
    return [json.loads(line) for line in session.file.read_text().splitlines()]


def what_it_holds(session: Session) -> tuple:
    return (
        session.answers, session.taken_back, session.clicks, session.next_number,
        session.next_draw, session.pairs,
    )  # fmt: skip
