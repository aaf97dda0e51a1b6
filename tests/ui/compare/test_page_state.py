"""What the page of a comparison shows of a question."""

from __future__ import annotations

import pytest

from dpo_lab.annotation.blind import a_is_left
from dpo_lab.annotation.blind_queue import BlindQueue
from dpo_lab.annotation.session import Session
from dpo_lab.annotation.side_answers import AnswerPair, Sampling
from dpo_lab.ui.compare.page_state import question_state
from dpo_lab.ui.compare.two_models import TwoModels


@pytest.fixture
def resting(tmp_path):
    """Two models that were never loaded."""
    nothing = lambda *any: None  # noqa: E731
    return TwoModels((), tmp_path, list, Sampling(1), drawn=nothing, changed=nothing)


def test_what_was_cut_is_said_on_the_side_where_it_stands(tmp_path, resting):
    session = Session(tmp_path / "mine")
    queue = BlindQueue(session)
    queue.add([AnswerPair(n, f"p{n}", "mine", "theirs", a_cut=True) for n in range(6)], True)
    seen = set()
    while queue.question:
        left = a_is_left(queue.question)
        state = question_state(queue, resting, "")
        assert (state["a"], state["b"]) == (
            ("mine …(cut)", "theirs") if left else ("theirs", "mine …(cut)")
        )
        seen.add(left)
        queue.answer("tie")
    assert seen == {True, False}
    assert not question_state(queue, resting, "")["asked"]
    session.close()


def test_a_closed_page_asks_nothing(tmp_path, resting):
    session = Session(tmp_path / "mine")
    queue = BlindQueue(session)
    queue.add([AnswerPair(0, "p", "mine", "theirs")], True)
    state = question_state(queue, resting, "closed")
    assert not state["asked"] and not state["open"] and state["waiting"] == "closed"
    assert state["prompt"] == state["a"] == state["b"] == ""
    session.close()
