"""The comparison from code and by the messages of its page."""

from __future__ import annotations

import json
import threading

import pytest
import torch
from page_messages import says
from tiny import make_language_model, shake

from dpo_lab.annotation.blind import a_is_left
from dpo_lab.annotation.judges import RewardJudge
from dpo_lab.data.reviews import reward
from dpo_lab.models.loading import load_model
from dpo_lab.models.sampling import sample
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.run_job import run_job
from dpo_lab.ui.compare.compare_models import JudgeSetup, compare_models
from dpo_lab.ui.compare.comparison import Comparison

PROMPTS = ["the plot was", "the music was", "the acting felt", "the film was", "the story felt"]
CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "mine"
    how = {"steps": 25, "batch_pairs": 16, "learning_rate": 3e-3, "eval_every": 0, "beta": 0.2}
    run_job(TrainConfig(**how, device="cpu", max_new_tokens=8), folder)
    return folder


@pytest.fixture
def open_one(tmp_path):
    opened = []

    def make(*models, **options) -> Comparison:
        options.setdefault("folder", tmp_path / "out")
        opened.append(Comparison(*models, **options))
        return opened[-1]

    yield make
    for one in opened:
        one.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("dpo-lab")]


def test_blind_choices_find_the_better_policy(run_folder, open_one):
    """A person whose taste is the true reward, asked about a run and its reference."""
    one = open_one(run_folder, prompts=PROMPTS)
    assert one.names == ("mine", "reference")
    taste = RewardJudge(reward)
    asked = []
    while True:
        one.models.wait(lambda: one.queue.question is not None or one.queue.complete, 60)
        if one.queue.question is None:
            break
        asked.append(one.question)
        one.answer(taste(one.question))
    different = [pair for pair in one.pairs if not pair.same]
    assert len(one.pairs) == 5 and len(asked) == 2 * len(different) > 0
    (found,) = one.result().judged
    wins = [reward(p.prompt, p.a) - reward(p.prompt, p.b) for p in one.pairs]
    expected = sum(1.0 if w > 0 else 0.5 if w == 0 else 0.0 for w in wins) / 5
    assert found.win.rate.mean == expected
    # Shown are the models' own greedy answers.
    policy = load_model(run_folder / "checkpoint", device="cpu")
    answers = sample(policy, policy.encoder.prompts(PROMPTS), max_new_tokens=8, temperature=0)
    assert [pair.a for pair in one.pairs] == [answer.text for answer in answers]
    for question in asked:
        left = one.pairs[question.draw].a if a_is_left(question) else one.pairs[question.draw].b
        assert question.a == left


def test_the_page_names_no_model_and_hides_the_result(run_folder, open_one):
    one = open_one(run_folder, prompts=PROMPTS)
    question, page = one.question, lambda: one.question_sheet.state
    assert page()["asked"] and page()["a"].startswith(question.a)
    assert "mine" not in page()["a"] + page()["b"] + page()["progress"] + page()["prompt"]
    says(one.question_sheet, {"choice": "A", "click": page()["click"]})
    says(one.question_sheet, {"choice": "A", "click": 0})  # a double click
    says(one.question_sheet, {"choice": "nonsense", "click": page()["click"]})
    assert page()["progress"].startswith("1 answered") and "nonsense" in page()["problem"]
    assert "1 choices so far" in one._result.value and "wins" not in one._result.value
    one._reveal.value = True
    assert "mine wins" in one._result.value and "Judged by you" in one._result.value
    says(one.question_sheet, {"choice": "undo", "click": page()["click"]})
    assert page()["progress"].startswith("0 answered") and one.question == question


def test_it_goes_on_where_it_was_and_knows_the_judges_of_the_command(run_folder, open_one):
    taste = JudgeSetup(RewardJudge(reward), orders=1, sees_order=False)
    folder = run_folder / "compare" / "reference"
    done = compare_models(run_folder, prompts=PROMPTS, judges={"truth": taste})
    one = open_one(run_folder, prompts=PROMPTS, folder=None)
    assert one.folder == folder
    one.answer("A")
    following = one.question
    again = open_one(run_folder, prompts=PROMPTS, folder=None)  # the cell is run again
    assert again.question == following and one.question_sheet.state["open"] is False
    assert [pair.a for pair in again.pairs] == [pair.a for pair in done.pairs]
    names = [found.judge for found in again.result().judged]
    assert names == ["you", "truth"]
    assert again.result().judged[1].win.first is None
    assert json.loads((folder / "judges" / "you" / "judge.json").read_text())["sees_order"]


@pytest.fixture
def talkers():
    models = [make_language_model(), make_language_model()]
    shake(models[1].model, 0.2, 5)
    for model in models:
        model.use_template(CHATML)
    return models


def test_a_chat_is_streamed_to_both_with_the_earlier_turns(talkers, open_one):
    states: list[dict] = []
    one = open_one(*talkers, prompts=["where"], max_new_tokens=6)
    one.models.wait(lambda: one.models.loaded, 60)
    one.chat_sheet.observe(lambda change: states.append(change["new"]), "state")
    says(one.chat_sheet, {"action": "ask", "text": " is it there "})
    says(one.chat_sheet, {"action": "ask", "text": "too soon"})  # ignored: both are answering
    assert one.models.wait(lambda: not one.models.busy, 60)
    (row,) = one.chat_sheet.state["rows"]
    assert row["prompt"] == "is it there"
    assert any(state["busy"] for state in states) and not states[-1]["busy"]
    one.say("where")
    for side, model in zip("ab", talkers, strict=True):
        turns = [{"role": "user", "content": "is it there"}]
        for at, following in enumerate(("where", None)):
            ids = model.encoder.prompts([turns])
            (answer,) = sample(model, ids, max_new_tokens=6, temperature=0)
            assert one.models.rows[at][side].startswith(answer.text)
            turns += [{"role": "assistant", "content": answer.text}]
            turns += [{"role": "user", "content": following}] if following else []
    says(one.chat_sheet, {"action": "new"})
    assert one.chat_sheet.state["rows"] == [] and one.chat_sheet.state["note"] == ""


def test_stop_ends_both_answers(talkers, open_one):
    one = open_one(*talkers, prompts=["where"], max_new_tokens=200)
    one.models.wait(lambda: one.models.loaded, 60)
    one.chat_sheet.observe(
        lambda change: change["new"]["rows"][0]["a"] and one.models.stop(), "state"
    )
    one.models.ask("is it there")
    assert one.models.wait(lambda: not one.models.busy, 60)
    row = one.models.rows[0]
    assert row["a"].endswith("…(cut)") and row["b"] == ""


def test_models_that_complete_text_say_that_they_forget(open_one, micro):
    one = open_one(micro, micro, prompts=PROMPTS)
    one.models.wait(lambda: one.models.loaded, 60)
    assert "earlier turns are not given" in one.chat_sheet.state["note"]
    a, b = one.say("the plot was")
    assert a == b != ""


def test_what_cannot_be_compared_is_said(open_one, micro, tmp_path):
    with pytest.raises(ValueError, match="is no run, so it has no reference"):
        Comparison(micro)
    with pytest.raises(ValueError, match="nothing is held out. Give prompts"):
        Comparison(micro, micro)
    with pytest.raises(ValueError, match="must be a list of prompts"):
        Comparison(micro, micro, prompts="one")
    one = open_one(micro, tmp_path / "nothing", prompts=PROMPTS)
    assert one.models.wait(lambda: False, 60)
    assert "no such folder" in one.chat_sheet.state["problem"]
    assert not one.chat_sheet.state["open"]
    with pytest.raises(OSError, match="no such folder"):
        _ = one.question
