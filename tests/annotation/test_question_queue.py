"""Which question comes next: random order, repetitions, a break, undo, and what cannot be asked."""

from __future__ import annotations

import threading

import pytest

from dpo_lab.annotation import click_log, question_source as module
from dpo_lab.annotation.question_queue import REST, QuestionQueue
from dpo_lab.annotation.questions import Question
from dpo_lab.annotation.session import Session
from dpo_lab.annotation.simulated import SimulatedAnnotator
from dpo_lab.models.loading import load_model
from dpo_lab.models.weights import weights_fingerprint

PROMPTS = ["the acting felt", "the plot was", "the music was"]


@pytest.fixture
def begin(tmp_path, micro):
    begun = []

    def make(folder="mine", prompts=PROMPTS, **options) -> QuestionQueue:
        one = QuestionQueue(Session(tmp_path / folder), prompts, lambda: micro, **options)
        begun.append(one.start())
        return one

    yield make
    for one in begun:
        one.close()


def _asked(one: QuestionQueue, count: int, choice="A") -> list[Question]:
    questions = []
    for _ in range(count):
        questions.append(one.wait(60))
        one.answer(choice)
    return questions


def test_every_prompt_in_turn_and_two_different_answers(begin) -> None:
    questions = _asked(begin(repeat=0), 30)
    for start in range(0, 30, 3):
        assert {q.prompt for q in questions[start : start + 3]} == set(PROMPTS)
    assert all(q.a != q.b and q.a and q.b for q in questions)
    assert [q.number for q in questions] == list(range(1, 31))


def test_some_questions_come_twice_later_and_with_their_sides_swapped(begin) -> None:
    questions = _asked(begin(repeat=0.3), 80)
    repeated = [q for q in questions if q.repeats]
    assert 14 <= len(repeated) <= 34  # 24 of 80 on average, 4 either side of it is one sigma
    for again in repeated:
        first = questions[again.repeats - 1]
        assert (again.prompt, again.a, again.b) == (first.prompt, first.b, first.a)
        assert again.number - first.number > REST and first.repeats is None
    assert len({q.repeats for q in repeated}) == len(repeated)


def test_skipped_questions_are_not_asked_again(begin) -> None:
    assert not any(q.repeats for q in _asked(begin(repeat=0.5), 40, "skip"))


def test_after_a_break_it_asks_what_it_would_have_asked_without(begin) -> None:
    whole = _asked(begin("whole", repeat=0.3), 40)
    first = begin("parts", repeat=0.3)
    parts = _asked(first, 17)
    shown = first.wait(60)
    first.close()
    second = begin("parts", repeat=0.3)
    assert second.wait(60) == shown == whole[17]
    assert parts + _asked(second, 23) == whole


def test_undo_asks_the_same_again_and_then_goes_on_as_before(begin) -> None:
    one = begin(repeat=0)
    first, second, third = *_asked(one, 2), one.wait(60)
    assert one.undo() and one.question == second
    assert one.undo() and one.question == first
    assert not one.undo() and one.question == first
    assert _asked(one, 2, "B") == [first, second] and one.wait(60) == third
    assert [answer.choice for answer in one.session.answers] == ["B", "B"]


def test_what_was_taken_back_waits_through_a_break(begin) -> None:
    one = begin()
    first = _asked(one, 2)[0]
    one.undo()
    one.undo()
    one.close()
    assert begin().wait(60) == first


def test_nothing_else_is_asked_before_the_answer_is_on_disk(begin, monkeypatch) -> None:
    one, sync, seen = begin(), click_log.os.fsync, []
    asked = one.wait(60)

    def watched(handle) -> None:
        sync(handle)
        seen.append(one.question)

    monkeypatch.setattr(click_log.os, "fsync", watched)
    one.answer("A")
    # The log, then the pairs and their folder: every time the same question still.
    assert seen == [asked] * 3 and one.wait(60) != asked


@pytest.mark.parametrize("place", ["_take", "_write_pairs", "_ask"])
@pytest.mark.parametrize("undo", [False, True])
def test_after_an_interrupt_it_asks_as_if_there_was_none(begin, monkeypatch, place, undo) -> None:
    one, whole = begin(repeat=0), _asked(begin("whole", repeat=0), 5)
    assert _asked(one, 2) == whole[:2] and one.wait(60) == whole[2]
    owner = QuestionQueue if place == "_ask" else Session
    step = getattr(owner, place)

    def once(*arguments) -> None:
        monkeypatch.setattr(owner, place, step)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, place, once)
    with pytest.raises(KeyboardInterrupt):
        one.undo() if undo else one.answer("A")
    at = 1 if undo else 3
    assert len(one.session.answers) == at and _asked(one, 5 - at) == whole[at:]
    one.close()
    again = Session(one.session.path)
    again.close()
    assert [answer.question for answer in again.answers] == whole


def test_the_log_says_whose_answers_they_were(begin, micro) -> None:
    one = begin(repeat=0.5)
    _asked(one, 20)
    (source,) = {answer.question.model for answer in one.session.answers}
    assert source == f"micro {weights_fingerprint(micro.model)[:12]}"


def test_a_double_click_answers_one_question(begin) -> None:
    one = begin()
    one.wait(60)
    _, click = one.now()
    assert one.answer("A", click) and not one.answer("A", click) and not one.undo(click)
    assert len(one.session.answers) == 1
    one.wait(60)
    assert one.answer("A", one.now()[1]) and len(one.session.answers) == 2


def test_nothing_is_drawn_while_it_rests(begin, monkeypatch) -> None:
    """The drawing thread is seen to wait again after every answer, and to have drawn nothing."""
    wait, two_answers = threading.Condition.wait, module.two_answers
    waits, draws = threading.Semaphore(0), []

    def waited(condition, timeout=None) -> bool:
        if threading.current_thread().name == "dpo-lab pairs":
            waits.release()
        return wait(condition, timeout)

    def drawn(*arguments, **options):
        draws.append(arguments)
        return two_answers(*arguments, **options)

    monkeypatch.setattr(threading.Condition, "wait", waited)
    monkeypatch.setattr(module, "two_answers", drawn)
    one = begin(repeat=0)
    one.wait(60)
    one.rest()
    assert waits.acquire(timeout=60)
    before = len(draws)
    while one.question:
        one.answer("A")
        assert waits.acquire(timeout=60) and len(draws) == before
    answered = len(one.session.answers)
    assert answered and not one.answer("A")
    one.go_on()
    _asked(one, 3)
    assert len(one.session.answers) == answered + 3


def test_a_prompt_with_one_answer_is_given_up_and_named(begin, monkeypatch) -> None:
    draw = module.two_answers

    def none_for_the_plot(model, prompts, **options):
        drawn = draw(model, prompts, **options)
        return [two if "plot" not in p else None for p, two in zip(prompts, drawn, strict=True)]

    monkeypatch.setattr(module, "two_answers", none_for_the_plot)
    one = begin()
    assert "the plot was" not in {q.prompt for q in _asked(one, 12)}
    assert one.given_up == ["the plot was"]


def test_no_prompt_with_two_answers_is_an_error_that_names_one(begin, monkeypatch) -> None:
    monkeypatch.setattr(module, "two_answers", lambda m, prompts, **o: [None] * len(prompts))
    one = begin()
    with pytest.raises(ValueError, match="gives no two different answers.*Give other prompts"):
        one.wait(60)


def test_a_model_that_cannot_be_loaded_is_raised_and_the_session_stays_sound(tmp_path) -> None:
    told = []
    one = QuestionQueue(
        Session(tmp_path), PROMPTS, lambda: load_model("nowhere"), changed=lambda: told.append(1)
    ).start()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        one.wait(60)
    one.close()
    assert told
    Session(tmp_path).close()


def test_a_share_of_repetitions_out_of_range_is_refused(tmp_path) -> None:
    session = Session(tmp_path)
    with pytest.raises(ValueError, match="repeat=1: must be in"):
        QuestionQueue(session, PROMPTS, lambda: None, repeat=1)
    session.close()


QUESTION = Question(1, "the plot was", "great", "not very good", 0)


def _length(prompt: str, answer: str) -> float:
    return -float(len(answer.split()))


def test_a_simulated_annotator_follows_his_taste() -> None:
    surely = SimulatedAnnotator(_length, labels="better")
    assert surely(QUESTION) == "A"
    assert surely(Question(2, "p", "not very good", "great", 0)) == "B"
    assert surely(Question(3, "p", "good", "bad", 0)) == "tie"
    assert SimulatedAnnotator(_length, tie_within=2)(QUESTION) == "tie"
    with pytest.raises(ValueError, match="labels='argmax': unknown"):
        SimulatedAnnotator(_length, labels="argmax")


def test_and_wavers_as_bradley_terry_says() -> None:
    """One word against three: sigma(2) = 0.881; 4 sigma of 2000 draws are 0.029."""
    wavering = SimulatedAnnotator(_length, seed=3)
    share = sum(wavering(QUESTION) == "A" for _ in range(2000)) / 2000
    assert share == pytest.approx(0.8808, abs=0.029)
