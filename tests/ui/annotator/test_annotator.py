"""The annotator from code and by the messages of its page."""

from __future__ import annotations

import json
import threading

import pytest
from asking import PROMPTS, QUICK, brevity
from page_messages import clicked, says

from dpo_lab import load_preferences
from dpo_lab.annotation import session
from dpo_lab.annotation.session import Session
from dpo_lab.annotation.simulated import SimulatedAnnotator
from dpo_lab.models.loading import load_model
from dpo_lab.ui.annotator.annotator import Annotator
from dpo_lab.ui.annotator.question import prompt_words

ATTACK = "<img src=x onerror=alert(1)>"


def _page(one: Annotator) -> dict:
    return one.question_sheet.state


def _send(one: Annotator, choice, click="now") -> None:
    """A message as the page sends it."""
    click = _page(one)["click"] if click == "now" else click
    says(one.question_sheet, {"choice": choice, "click": click})


def _until(one: Annotator, name: str) -> None:
    """Until the page has something of that name."""
    there = threading.Event()
    one.question_sheet.observe(lambda change: change["new"][name] and there.set(), "state")
    assert _page(one)[name] or there.wait(10)


def _shown(one: Annotator) -> None:
    """Until there is a question on the page."""
    question = one.question
    _until(one, "asked")
    assert _page(one)["a"] == question.a


def test_clicks_from_code_and_from_the_page_do_the_same(open_one) -> None:
    one = open_one(repeat=0)
    one.answer("A")
    _shown(one)
    _send(one, "B")
    _shown(one)
    _send(one, "tie")
    _shown(one)
    _send(one, "skip")
    assert [answer.choice for answer in one.answers] == ["A", "B", "tie", "skip"]
    assert _page(one)["progress"] == "3 answered, 1 of them ties · 1 skipped"
    assert _page(one)["place"] == f"2 pairs in {one.session.file}"
    assert _page(one)["said"] == "Skipped."
    _send(one, "undo")
    one.undo()
    one.undo()
    assert [answer.choice for answer in one.answers] == ["A"]
    assert _page(one)["said"] == "Taken back." and _page(one)["a"] == one.question.a
    assert one.pairs == [json.loads(line) for line in one.session.file.read_text().splitlines()]


def test_an_answer_that_was_cut_is_marked_on_the_page_and_counted(open_one) -> None:
    """One token is one word of micro: whatever is shown was cut."""
    one = open_one(repeat=0, max_new_tokens=1)
    first = one.question
    one.answer("A")
    question, page = one.question, _page(one)
    assert page["a"] == f"{question.a} …(cut)" and page["b"] == f"{question.b} …(cut)"
    assert "2 of 2 shown were cut at their limit" in page["progress"]
    (row,) = one.pairs
    assert row["chosen"] == first.a and not row["chosen_sampled"]["ended"]


def test_a_stale_click_answers_nothing(open_one) -> None:
    one = open_one()
    _shown(one)
    click = _page(one)["click"]
    _send(one, "A", click)
    _shown(one)
    for choice in ("A", "B", "undo"):
        _send(one, choice, click)
    assert len(one.answers) == 1 and _page(one)["said"] == "A is noted."
    assert _page(one)["heard"] == 4  # the page gets an answer all the same


NO_CLICKS = [None, [], "A", {}, {"choice": "A"}, {"choice": "A", "click": "0"}]


@pytest.mark.parametrize("content", NO_CLICKS)
def test_a_message_that_no_page_sends_does_nothing(open_one, content) -> None:
    one = open_one()
    _shown(one)
    says(one.question_sheet, content)
    assert not one.answers


def test_what_goes_wrong_stands_on_the_page_and_is_raised_in_code(open_one, monkeypatch) -> None:
    one = open_one()
    _shown(one)
    _send(one, ATTACK)
    assert _page(one)["problem"].startswith(f"ValueError: choice='{ATTACK}': unknown")

    def full(*arguments) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("dpo_lab.annotation.click_log.os.fsync", full)
        _send(one, "A")
        assert _page(one)["problem"] == "OSError: no space left" and not one.answers
        with pytest.raises(OSError, match="no space"):
            one.answer("A")
    assert _page(one)["asked"]
    _send(one, "A")
    assert _page(one)["problem"] == "" and len(one.answers) == 1


def test_a_session_is_left_and_gone_on_with_and_closes_the_one_before(open_one) -> None:
    one = open_one()
    one.answer_as(SimulatedAnnotator(brevity), 8)
    asked, page = one.question, one.question_sheet.comm
    two = open_one()
    assert (
        _page(one)["waiting"] == "closed: the session was opened again" and not _page(one)["open"]
    )
    assert len(two.answers) == 8 and two.question == asked
    clicked(page, {"choice": "A", "click": _page(one)["click"]})  # it was on its way
    with pytest.raises(RuntimeError, match="Open the session again"):
        one.train()
    assert len(two.answers) == 8


def test_a_torn_last_line_is_told_on_the_page(open_one, tmp_path) -> None:
    left = Session(tmp_path / "mine")
    left.close()
    left.log.write_text('{"choice": "A", "num')
    assert "cut short and is left out" in _page(open_one())["problem"]


def test_pairs_that_were_changed_by_hand_are_told_until_it_is_closed(open_one) -> None:
    one = open_one()
    one.session.file.write_text("mine")
    one.answer("A")
    one.answer("A")
    assert "preferences.jsonl.before" in _page(one)["problem"]


def test_an_interrupted_answerer_goes_on(open_one, monkeypatch) -> None:
    one, known = open_one(repeat=0), SimulatedAnnotator(brevity)
    append = session.append

    def once(*arguments) -> None:
        """The log has the click, and nobody else knows of it."""
        monkeypatch.setattr(session, "append", append)
        append(*arguments)
        raise KeyboardInterrupt

    one.answer_as(known, 2)
    monkeypatch.setattr(session, "append", once)
    with pytest.raises(KeyboardInterrupt):
        one.answer_as(known, 3)
    one.answer_as(known, 2)
    assert [answer.question.number for answer in one.answers] == [1, 2, 3, 4, 5]
    one.close()
    assert open_one(repeat=0).answers == one.answers


def test_an_annotator_that_is_refused_leaves_the_one_before_alone(open_one, tmp_path) -> None:
    one = open_one()
    for arguments, words in (
        ({"prompts": []}, r"prompts=\[\]: must be a list of prompts"),
        ({"prompts": "the plot was"}, "must be a list of prompts"),
        ({"prompts": ["a", " "]}, "prompts, row 2, 'prompt': empty"),
        ({"prompts": ["a", 3]}, "prompts, row 2, 'prompt': wrong type"),
        ({"prompts": [[{"role": "assistant", "content": "a"}]]}, "roles out of order"),
        ({"repeat": 1.0}, "repeat=1.0: must be in"),
    ):
        with pytest.raises(ValueError, match=words):
            open_one(**arguments)
    one.answer("A")
    assert len(one.answers) == 1


def test_a_model_that_is_not_there_is_told_and_raised(open_one) -> None:
    one = open_one(model="nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        one.answer("A")
    _until(one, "problem")
    assert _page(one)["problem"].startswith("No more questions: model 'nowhere'")


def test_text_of_prompts_and_answers_is_escaped(open_one) -> None:
    one = open_one(prompts=[f"the plot was {ATTACK}", "the music was"])
    one.answer_as(SimulatedAnnotator(brevity, labels="better"), 8)
    if not one.pairs:
        one.answer("A")
    one.train(**QUICK).wait(60)
    assert (
        "<img" not in one.train_panel.samples.value and "&lt;img" in one.train_panel.samples.value
    )


CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ m.content }} "
    "{% if m.role == 'assistant' %}<end>{% endif %}{% endfor %}"
)


def test_a_model_with_a_chat_template_makes_conversations(open_one) -> None:
    model = load_model("micro")
    model.tokenizer.chat_template = CHAT
    one = open_one(model=model)
    one.answer("A")
    prompt = one.answers[0].question.prompt
    assert prompt == [{"role": "user", "content": prompt[0]["content"]}]
    assert one.pairs[0]["chosen"] == [{"role": "assistant", "content": one.answers[0].question.a}]
    _shown(one)
    assert _page(one)["prompt"] in PROMPTS
    assert load_preferences(one.session.file)[0].prompt == prompt
    run = one.train(**QUICK).wait(60)
    assert {sample.prompt for sample in run.samples} == set(PROMPTS)


def test_a_conversation_is_shown_turn_by_turn() -> None:
    talk = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"}]
    assert prompt_words(talk) == "system: be brief\nuser: why?" and prompt_words("a") == "a"


def test_without_a_kernel_the_page_says_what_it_was(open_one) -> None:
    bundle = open_one()._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle and "run this cell" in str(bundle)


def test_opening_the_session_again_frees_the_widgets_of_the_one_before(open_one) -> None:
    before = open_one()
    before.answer("A")
    _shown(before)
    sheet, panel = before.question_sheet, before.train_panel
    assert sheet.comm is not None and panel.samples.comm is not None
    open_one()
    held = [sheet, sheet.view, panel.style, panel.view, panel.samples, panel.train_button]
    assert [one.comm for one in held] == [None] * 6
    (words,) = before.view.children
    assert words.value == "<p class='note'>closed: the session was opened again</p>"
    assert words.comm is not None and _page(before)["said"] == ""
