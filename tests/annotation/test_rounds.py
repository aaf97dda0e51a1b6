"""Rounds: a person answers, the model is trained, and its policy asks the next questions."""

import pytest
import torch

from dpo_lab.annotation.rounds import Round, rounds_of
from dpo_lab.annotation.simulated import SimulatedAnnotator
from dpo_lab.data.pairs import prompt_text
from dpo_lab.data.reviews import reward
from dpo_lab.models.loading import load_model
from dpo_lab.models.weights import weights_fingerprint
from dpo_lab.training.outcome import MeanCI
from dpo_lab.ui.annotator.annotator import Annotator
from dpo_lab.ui.annotator.rounds_table import rounds_html

PROMPTS = ["the acting felt", "the plot was", "the music was", "the pacing seemed"]


@pytest.fixture
def open_session(tmp_path):
    opened = []

    def opens(**options) -> Annotator:
        for annotator in opened:
            annotator.close()
        options = {"reward_fn": reward, "repeat": 0.3} | options
        opened.append(Annotator(PROMPTS, session=tmp_path / "session", **options))
        return opened[-1]

    yield opens
    opened[-1].close()


def trained(annotator, **changes):
    run = annotator.train(**{"steps": 30, "beta": 1.0, "sample_prompts": 0} | changes)
    run.wait(120)
    annotator.train_panel._show()  # the drawing thread's work, which may come later
    return run


def rows_of(annotator, source) -> list:
    """Prompt and sampled ids of the left answers to the new questions of a policy."""
    asked = [a.question for a in annotator.answers if a.question.repeats is None]
    return [(q.prompt, q.a_sampled.ids) for q in asked if q.model == source]


def log_ratio(job, rows) -> float:
    """Mean log-ratio of answers, of policy to reference: above 0 where the policy gave them."""
    prompts = job.policy.encoder.prompts([prompt for prompt, _ in rows])
    sequences = [(prompt, ids) for prompt, (_, ids) in zip(prompts, rows, strict=True)]
    with torch.no_grad(), job.reference.active() as frozen:
        policy = job.scorer.logps(job.scorer.batch(sequences))
        return (policy - frozen.logps(frozen.batch(sequences))).mean().item()


@pytest.mark.slow
def test_each_round_s_questions_are_the_policy_s_and_the_reference_stays(open_session):
    annotator, person = open_session(), SimulatedAnnotator(reward, seed=0)
    annotator.answer_as(person, 24)
    sizes, first = [len(annotator.pairs)], trained(annotator)
    annotator.answer_as(person, 24)
    sizes, second = [*sizes, len(annotator.pairs)], trained(annotator)
    annotator.answer_as(person, 8)
    micro = load_model("micro", device="cpu")
    names = weights_fingerprint(micro.model)[:12], first.folder.name, second.folder.name
    sources = [f"micro {name}" for name in names]
    rounds = annotator.rounds
    assert [each.model for each in rounds] == sources and len(set(sources)) == 3
    assert [each.number for each in rounds] == [1, 2, 3]
    # Each run begins at the same reference, with all pairs so far.
    assert first.job.fingerprint == second.job.fingerprint == weights_fingerprint(micro.model)
    assert [len(first.job.train), len(second.job.train)] == sizes and sizes[0] < sizes[1]
    assert sum(each.pairs for each in rounds) == len(annotator.pairs)

    # The score of a round again, from the log: both answers of every new question of its policy.
    for each in rounds:
        asked = [
            answer.question
            for answer in annotator.answers
            if answer.question.model == each.model and answer.question.repeats is None
        ]
        shown = [(prompt_text(q.prompt), text) for q in asked for text in (q.a, q.b)]
        mean = sum(reward(*answer) for answer in shown) / len(shown)
        assert each.score.mean == pytest.approx(mean) and each.score.n == len(shown)
    assert rounds[1].score.mean > rounds[0].score.mean + 0.3
    reference_says = rows_of(annotator, sources[0])
    policy_says = rows_of(annotator, sources[1])
    assert log_ratio(first.job, policy_says) > 0.1 > log_ratio(first.job, reference_says)
    assert sum(each.agreement.n for each in rounds if each.agreement) == annotator.agreement.n
    words = annotator.rounds_table.value
    assert "the reference" in words and "the policy of round 2" in words


@pytest.mark.slow
def test_answers_of_a_round_are_scored_as_they_were_sampled(open_session):
    """The log-probabilities of the ids in the log, under the policy: none that it would not say."""
    annotator, person = open_session(), SimulatedAnnotator(reward, seed=1)
    annotator.answer_as(person, 12)
    policy = trained(annotator).job.policy
    annotator.answer_as(person, 12)
    asked = [answer.question for answer in annotator.answers if answer.question.repeats is None]
    new = [question for question in asked if question.model == annotator.rounds[1].model]
    assert len(new) >= 3
    for question in new:
        ids = question.a_sampled.ids
        prompt = policy.encoder.prompts([question.prompt])[0]
        with torch.no_grad():
            logits = policy.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        logps = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])
        assert logps.min() > -14
        assert policy.tokenizer.decode(ids, skip_special_tokens=True).strip() == question.a


@pytest.mark.slow
@pytest.mark.parametrize("rank", [None, 2])
def test_a_reopened_session_asks_what_it_would_have_asked(open_session, rank):
    annotator, person = open_session(), SimulatedAnnotator(reward, seed=2)
    annotator.answer_as(person, 10)
    trained(annotator, lora_rank=rank, learning_rate=1e-3)
    annotator.answer_as(person, 5)
    expected, asked = annotator.question, [each.model for each in annotator.rounds]
    reopened = open_session()
    assert reopened.question == expected
    assert [each.model for each in reopened.rounds] == asked
    assert len(reopened.rounds) == len(rounds_of(reopened.session)) == 2
    # And trains from the reference again, not from the policy that asks.
    again = trained(reopened)
    assert again.job.fingerprint == weights_fingerprint(load_model("micro", device="cpu").model)


@pytest.mark.slow
def test_a_policy_of_one_answer_hands_back_to_the_reference(open_session):
    annotator, person = open_session(repeat=0), SimulatedAnnotator(reward, seed=3)
    annotator.answer_as(person, 6)
    source = annotator.answers[0].question.model
    run = annotator.train(steps=200, beta=0.01, learning_rate=1e-2, sample_prompts=0)
    run.wait(120)
    annotator.train_panel._show()
    annotator.answer("tie")  # the question that was on the page all the time
    assert annotator.question.model == source
    annotator._show()  # as the sampling thread does after it
    assert (
        "no two different answers to any prompt any more"
        in annotator.question_sheet.state["problem"]
    )


def test_the_question_on_the_page_stays_there_when_a_round_begins(open_session):
    """A click that is on its way is meant for what the person sees."""
    annotator = open_session(repeat=0)
    shown, click = annotator.question, annotator.interview.now()[1]
    annotator.interview.ask_of(lambda: load_model("micro", device="cpu"), "another")
    annotator._clicked("A", click)
    assert annotator.answers[0].question == shown
    assert annotator.question.model == "micro another"


@pytest.mark.slow
def test_a_reward_that_fails_costs_its_column_alone(open_session):
    def fails(prompt: str, response: str) -> float:
        raise KeyError(response)

    annotator, person = open_session(reward_fn=fails), SimulatedAnnotator(reward, seed=4)
    annotator.answer_as(person, 6)
    annotator.interview.ask_of(lambda: load_model("micro", device="cpu"), "another")
    annotator.answer_as(person, 6)
    assert [each.score for each in annotator.rounds] == [None, None]
    assert annotator.interview.error is None and "another" in annotator.question.model


def test_the_table_of_rounds_has_a_cell_under_each_title():
    """Also where a round has no score, since its reward could not be computed."""
    some = MeanCI.of([0.5, 1.5])
    rounds = [Round(1, "a", 4, 3, MeanCI.of([1.0, 0.0]), some), Round(2, "b", 1, 1, None, None)]
    for scored, cells in ((True, 6), (False, 5)):
        rows = rounds_html(rounds, scored).split("<tr>")
        assert [row.count("<td") for row in rows[2:]] == [cells, cells]
    assert "1 (" in rounds_html(rounds, True) and "1 of 2" in rounds_html(rounds, False)
