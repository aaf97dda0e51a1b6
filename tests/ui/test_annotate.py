"""The annotator from code and by the messages of its page."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest
import torch

from dpo_lab.data import load_preferences
from dpo_lab.data.reviews import PROMPTS as REVIEWS
from dpo_lab.data.reviews import score
from dpo_lab.models.loading import load_model
from dpo_lab.models.world import World
from dpo_lab.training import background
from dpo_lab.training.annotations import Question, Session
from dpo_lab.training.background import BackgroundRun
from dpo_lab.training.interview import Interview
from dpo_lab.training.runs import Run
from dpo_lab.training.simulated import SimulatedAnnotator
from dpo_lab.ui.annotate import Annotator
from dpo_lab.ui.question import prompt_words

PROMPTS = ["the acting felt", "the plot was", "the music was"]
ATTACK = "<img src=x onerror=alert(1)>"
QUICK = {"steps": 4, "eval_every": 2, "kl_samples": 4}


def _brevity(prompt: str, answer: str) -> float:
    return -1.5 * len(answer.split())


@pytest.fixture
def open_one(tmp_path):
    opened = []

    def make(prompts=PROMPTS, **options) -> Annotator:
        opened.append(Annotator(prompts, session=tmp_path / "mine", **options))
        return opened[-1]

    yield make
    for one in opened:
        one.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("dpo-lab")]


def _page(one: Annotator) -> dict:
    return one.question_view.state


def _send(one: Annotator, choice, click="now") -> None:
    """A message as the page sends it."""
    click = _page(one)["click"] if click == "now" else click
    one.question_view._handle_custom_msg({"choice": choice, "click": click}, [])


def _shown(one: Annotator) -> None:
    """Until there is a question on the page."""
    question, asked = one.question, threading.Event()
    one.question_view.observe(lambda change: change["new"]["asked"] and asked.set(), "state")
    if not _page(one)["asked"]:
        asked.wait(10)
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
    one.question_view._handle_custom_msg(content, [])
    assert not one.answers


def test_what_goes_wrong_stands_on_the_page_and_is_raised_in_code(open_one, monkeypatch) -> None:
    one = open_one()
    _shown(one)
    _send(one, ATTACK)
    assert _page(one)["problem"].startswith(f"ValueError: choice='{ATTACK}': unknown")

    def full(*arguments) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("dpo_lab.training.click_log.os.fsync", full)
        _send(one, "A")
        assert _page(one)["problem"] == "OSError: no space left" and not one.answers
        with pytest.raises(OSError, match="no space"):
            one.answer("A")
    assert _page(one)["asked"]
    _send(one, "A")
    assert _page(one)["problem"] == "" and len(one.answers) == 1


def test_a_session_is_left_and_gone_on_with_and_closes_the_one_before(open_one) -> None:
    one = open_one()
    one.answer_as(SimulatedAnnotator(_brevity), 8)
    asked = one.question
    two = open_one()
    assert (
        _page(one)["waiting"] == "closed: the session was opened again" and not _page(one)["open"]
    )
    assert len(two.answers) == 8 and two.question == asked
    _send(one, "A")
    with pytest.raises(RuntimeError, match="Open the session again"):
        one.train()
    assert len(two.answers) == 8


def test_a_torn_last_line_is_told_on_the_page(open_one, tmp_path) -> None:
    session = Session(tmp_path / "mine")
    session.close()
    session.log.write_text('{"choice": "A", "num')
    assert "cut short and is left out" in _page(open_one())["problem"]


def test_pairs_that_were_changed_by_hand_are_told_until_it_is_closed(open_one) -> None:
    one = open_one()
    one.session.file.write_text("mine")
    one.answer("A")
    one.answer("A")
    assert "preferences.jsonl.before" in _page(one)["problem"]


def test_an_interrupted_answerer_goes_on(open_one, monkeypatch) -> None:
    one, known = open_one(repeat=0), SimulatedAnnotator(_brevity)
    take = Session._take

    def once(*arguments) -> None:
        monkeypatch.setattr(Session, "_take", take)
        raise KeyboardInterrupt

    one.answer_as(known, 2)
    monkeypatch.setattr(Session, "_take", once)
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
    one.interview._thread.join(10)
    assert _page(one)["problem"].startswith("No more questions: model 'nowhere'")


def test_sixty_answers_of_a_known_taste_are_followed(open_one) -> None:
    """Words an answer, exact: 1.96 before; after, below 1.5 (observed in 8 seeds: 1.00 to 1.19)."""
    one = open_one(REVIEWS[::5])
    one.answer_as(SimulatedAnnotator(_brevity), 60)
    agreement = one.agreement
    same = round(agreement.mean * agreement.n)
    assert f"the same answer as before to {same} of {agreement.n}" in _page(one)["progress"]
    assert load_preferences(one.session.file).pairs and len(one.pairs) > 30
    run = one.train().wait(120)
    world = World.of(one.interview.model, REVIEWS[::5], _brevity)
    before, after = (
        world.point(model).reward / -1.5 for model in (one.interview.model, run.job.policy)
    )
    assert after < 1.5 < 1.9 < before
    assert load_preferences(Run.open(run.folder).config.data).pairs == tuple(
        load_preferences(one.session.file)
    )
    assert run.folder.is_relative_to(one.session.path / "runs")


def test_training_shows_answers_score_and_status_and_questions_go_on(open_one) -> None:
    one = open_one(score=score)
    with pytest.raises(ValueError, match="there is no pair yet, and ties train nothing"):
        one.train()
    one._alignment.train_button.click()
    assert "there is no pair yet" in one._alignment.status.value
    one.answer_as(SimulatedAnnotator(score), 6)
    one._alignment.train_button.click()
    one.run.wait(120)
    shown = one._alignment.samples.value
    steps = 10 + 2 * len(one.pairs)
    assert f"before and after step {steps} on {len(one.pairs)} pairs" in shown
    assert "Mean score of sampled answers" in shown
    assert shown.count("<tr>") == 1 + len(PROMPTS) and "class='score'" in shown
    assert one._alignment.status.value == f"done · step {steps}/{steps} · beta 0.3"
    assert one._alignment.progress.value == 1 and not one._alignment.train_button.disabled
    assert one.run.records[0]["kl/policy"] == 0
    one.answer_as(SimulatedAnnotator(score), 10)
    assert len(one.answers) == 16


def test_a_run_has_the_pairs_of_when_it_was_begun(open_one, monkeypatch) -> None:
    one, clicked = open_one(), threading.Event()
    one.answer_as(SimulatedAnnotator(_brevity, labels="better", tie_within=-1), 3)
    prepare = background.prepare

    def late(*arguments, **options):
        clicked.wait(60)
        return prepare(*arguments, **options)

    monkeypatch.setattr(background, "prepare", late)
    run = one.train(**QUICK)
    while len(one.pairs) < 5:
        one.answer("A")
    clicked.set()
    run.wait(60)
    assert len(run.job.train) == run.config.batch_pairs == 3
    assert "on 3 pairs." in one._alignment.samples.value
    assert len(load_preferences(Run.open(run.folder).config.data)) == 3


def test_a_run_that_was_stopped_goes_on_after_more_clicks(open_one) -> None:
    one = open_one()
    one.answer_as(SimulatedAnnotator(_brevity, labels="better", tie_within=-1), 4)
    run = one.train(steps=300, eval_every=0, checkpoint_every=1)
    run.reach(2, 60)
    run.stop()
    assert run.wait(60).state == "stopped"
    one.answer("A")
    one.undo()
    one.undo()
    kept = Run.open(run.folder)
    done = run.records[-1].step
    config = replace(kept.config, steps=300)
    resumed = BackgroundRun(config, model=one.interview.model, folder=kept.path).start()
    resumed.reach(done + 1, 60)
    resumed.stop()
    assert resumed.wait(60).records[0].step == 1 and len(resumed.records) > done


def test_the_batch_is_made_of_the_pairs_that_can_be_trained_on(open_one) -> None:
    one = open_one(prompts=["the plot was"])
    one.answer_as(SimulatedAnnotator(_brevity, labels="better", tie_within=-1), 1)
    blank = Question(one.session.next_number, "the plot was", "good", " ", 50)
    one.session.add(blank, "A")  # of a log that an earlier version wrote
    ended = Question(one.session.next_number, "the plot was", "good <end> bad", "bad", 51)
    one.session.add(ended, "A")
    assert len(one.pairs) == 3
    run = one.train(**QUICK | {"steps": 2}).wait(60)
    assert run.state == "done" and run.config.batch_pairs == len(run.job.train) == 1
    assert "on 1 pair." in one._alignment.samples.value
    assert one.train(limit=1, **QUICK).wait(60).state == "done"
    with pytest.raises(ValueError, match="batch_pairs=2: must be between 1 and the 1 "):
        one.train(batch_pairs=2, **QUICK).wait(60)
    assert len(list((one.session.path / "runs").glob("*.jsonl"))) == 3
    with pytest.raises(ValueError, match="all 2 pairs share one prompt"):
        one.train(held_out=0.5)
    assert len(list((one.session.path / "runs").glob("*.jsonl"))) == 3


def test_a_run_is_stopped_and_a_second_one_refused(open_one) -> None:
    one = open_one()
    one.answer_as(SimulatedAnnotator(_brevity), 5)
    run = one.train(steps=100_000)
    with pytest.raises(RuntimeError, match="going on"):
        one.train()
    run.reach(2, 60)
    one._alignment.stop_button.click()
    assert run.wait(60).state == "stopped"
    with pytest.raises(ValueError, match="beta=-1"):
        one.train(beta=-1)
    failed = one.train(**QUICK, precision="float32", data="nowhere.jsonl")
    with pytest.raises(FileNotFoundError):
        failed.wait(60)
    assert one._alignment.status.value.startswith("failed: nowhere.jsonl")
    assert one.train(**QUICK).wait(60).state == "done"


def test_text_of_prompts_and_answers_is_escaped_or_set_as_text(open_one) -> None:
    one = open_one(prompts=[f"the plot was {ATTACK}", "the music was"])
    one.answer_as(SimulatedAnnotator(_brevity, labels="better"), 8)
    if not one.pairs:
        one.answer("A")
    one.train(**QUICK).wait(60)
    assert "<img" not in one._alignment.samples.value and "&lt;img" in one._alignment.samples.value
    script = str(one.question_view._esm)
    assert "innerHTML" not in script and "insertAdjacent" not in script
    assert "textContent" in script


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


def test_drawing_and_training_at_once_disturb_neither(open_one, tmp_path, monkeypatch) -> None:
    """A run beside a session that draws is the run alone: PyTorch has one generator for both."""
    torch.set_num_threads(1)
    one = open_one()
    one.answer_as(SimulatedAnnotator(_brevity), 6)
    alone = one.train(**QUICK).wait(60).samples
    session = Session(tmp_path / "other")
    other = Interview(session, PROMPTS, lambda: load_model("micro")).start()
    run = one.train(**QUICK)
    for _ in range(40):
        other.wait(60)
        other.answer("tie")
    assert run.wait(60).samples == alone
    other.close()
