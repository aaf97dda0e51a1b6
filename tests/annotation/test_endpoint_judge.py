"""The judge behind an endpoint, against a real server on this machine."""

from __future__ import annotations

import threading

import pytest
from chat_server import chat_server

from dpo_lab.annotation.blind import blind_questions, judge_all
from dpo_lab.annotation.endpoint_judge import EndpointJudge, JudgeError, verdict_of
from dpo_lab.annotation.questions import Question
from dpo_lab.annotation.session import Session
from dpo_lab.annotation.side_answers import AnswerPair

KEY = "sk-secret-31415926"
ASKED = Question(1, "Where is Oslo?", "In Norway.", "In Chile.", 0)


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    return "JUDGE_KEY"


def test_it_sends_both_answers_and_the_key_in_one_header(key):
    with chat_server(lambda text: (200, "Norway is right.\n[[A]]")) as server:
        judge = EndpointJudge(server.url, "small", key_from=key)
        assert judge(ASKED) == "A" and judge.malformed == []
        judge.close()
    (asked,) = server.requests
    text = asked["messages"][0]["content"]
    assert text.index("Where is Oslo?") < text.index("In Norway.") < text.index("In Chile.")
    assert asked["path"] == "/v1/chat/completions" and asked["model"] == "small"
    assert asked["temperature"] == 0
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert KEY not in str(judge.facts)


def test_braces_in_an_answer_are_text():
    seen = []
    with chat_server(lambda text: (200, seen.append(text) or "[[tie]]")) as server:
        judge = EndpointJudge(server.url, "m")
        assert judge(Question(1, "p", "{b} {prompt}", "{a} {x}", 0)) == "tie"
    assert "{b} {prompt}" in seen[0] and "{a} {x}" in seen[0]


def test_a_conversation_is_read_turn_by_turn():
    turns = [("user", "Hi"), ("assistant", "Hello!"), ("user", "Where is Oslo?")]
    prompt = [{"role": role, "content": content} for role, content in turns]
    seen = []
    with chat_server(lambda text: (200, seen.append(text) or "[[B]]")) as server:
        EndpointJudge(server.url, "m")(Question(1, prompt, "a", "b", 0))
    assert "user: Hi\nassistant: Hello!\nuser: Where is Oslo?" in seen[0]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A is right.\n[[A]]", "A"),
        ("[[b]]", "B"),
        ("Neither [[A]] nor [[B]] stands out.\n[[tie]]", "tie"),
        ("<think>[[A]]? No, [[A]] is wrong.</think>[[B]]", "B"),
        ("I would say [[A]] or [[B]]", None),
        ("A is better", None),
        ("", None),
    ],
)
def test_a_verdict_is_read_or_there_is_none(reply, verdict):
    assert verdict_of(reply) == verdict


def test_a_malformed_reply_is_counted_and_never_guessed(key):
    with chat_server(lambda text: (200, f"Answer A, surely. {KEY}")) as server:
        judge = EndpointJudge(server.url, "m", key_from=key)
        assert judge(ASKED) == "skip"
    assert judge.malformed == ["Answer A, surely. [key]"]


def test_overload_and_failure_are_waited_for():
    states, waited = [(429, "slow down"), (503, "down"), (500, "down"), (200, "[[B]]")], []
    with chat_server(lambda text: states.pop(0)) as server:
        judge = EndpointJudge(server.url, "m", pause=waited.append)
        assert judge(ASKED) == "B"
    assert waited == [7, 2, 4], "as the server asks, else twice as long each time"


def test_a_server_that_never_recovers_ends_it_in_words():
    with chat_server(lambda text: (500, "down")) as server:
        judge = EndpointJudge(server.url, "m", tries=3, pause=lambda seconds: None)
        with pytest.raises(JudgeError, match="no reply after 3 tries .status 500.*run the same"):
            judge(ASKED)
    assert len(server.requests) == 3
    with pytest.raises(JudgeError, match="ConnectError"):  # nobody listens there any more
        EndpointJudge(server.url, "m", tries=1)(ASKED)


@pytest.mark.parametrize(
    ("status", "reply", "words"),
    [
        (401, {"error": f"wrong key {KEY}"}, "refused the key"),
        (404, {"error": f"no model, {KEY}"}, "refused the request.*no model, .key."),
        (302, "elsewhere", "another address"),
        (200, {"error": "not a chat"}, "something other than a chat completion"),
    ],
)
def test_a_refusal_is_said_at_once_and_without_the_key(key, status, reply, words):
    with chat_server(lambda text: (status, reply)) as server:
        judge = EndpointJudge(server.url, "m", key_from=key, pause=pytest.fail)
        with pytest.raises(JudgeError, match=words) as error:
            judge(ASKED)
    assert KEY not in str(error.value) and len(server.requests) == 1


def test_what_cannot_be_used_is_refused(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ValueError, match="NO_SUCH_KEY: this environment variable is not set"):
        EndpointJudge("http://localhost/v1", "m", key_from="NO_SUCH_KEY")
    with pytest.raises(ValueError, match="is no address"):
        EndpointJudge("localhost:8000", "m")
    with pytest.raises(ValueError, match="user, a password or a query") as error:
        EndpointJudge("http://me:word@localhost/v1", "m")
    assert "word@" not in str(error.value)
    with pytest.raises(ValueError, match="has no {b}"):
        EndpointJudge("http://localhost/v1", "m", instruction="{prompt} {a}")
    assert EndpointJudge("http://h/v1/chat/completions", "m").url == "http://h/v1"


def test_a_question_that_is_refused_alone_is_counted():
    """The model's context may be too short for one; a first refusal is about the settings."""
    with chat_server(lambda text: (400, "too long") if "Chile" in text else (200, "[[A]]")) as on:
        judge = EndpointJudge(on.url, "m")
        with pytest.raises(JudgeError, match="refused the request"):
            judge(ASKED)
        assert judge(Question(1, "p", "a", "b", 0)) == "A"
        assert judge(ASKED) == "skip" and "too long" in judge.malformed[0]


def test_address_key_and_model_are_checked_by_an_easy_question():
    with chat_server(lambda text: (200, "I cannot say")) as server:
        judge = EndpointJudge(server.url, "m")
        judge.check()
        assert judge.malformed == [] and len(server.requests) == 1
    with chat_server(lambda text: (404, "no such model")) as server:
        with pytest.raises(JudgeError, match="no such model"):
            EndpointJudge(server.url, "m").check()


def test_what_was_asked_while_another_request_failed_is_kept(tmp_path):
    """Four requests at a time: one is refused, the other three are answered after that."""
    pairs = [AnswerPair(n, f"prompt {n}", f"good {n}", f"bad {n}") for n in range(4)]
    session = Session(tmp_path / "judge")
    at_work, refused = threading.Barrier(4), threading.Event()

    def judge(question: Question):
        at_work.wait(10)
        if question.draw == 2:
            refused.set()
            raise JudgeError("refused")
        assert refused.wait(10)
        return "A"

    with pytest.raises(JudgeError):
        judge_all(session, blind_questions(pairs, 0, 1), judge, workers=4)
    assert sorted(answer.question.draw for answer in session.answers) == [0, 1, 3]
    session.close()


def test_a_judge_that_fails_midway_goes_on_where_it_was(tmp_path, key):
    """Nothing is lost, nothing is asked twice, and the key is in no file."""
    pairs = [AnswerPair(n, f"prompt {n}", f"good {n}", f"bad {n}") for n in range(10)]
    questions = blind_questions(pairs, seed=0)
    healthy = [True]

    def answer(text: str):
        if len(server.requests) > 7 and not healthy[0]:
            return 404, "broken"
        return 200, "[[A]]" if text.index("good") < text.index("bad") else "[[B]]"

    with chat_server(answer) as server:
        healthy[0] = False
        judge = EndpointJudge(server.url, "m", key_from=key)
        session = Session(tmp_path / "judge")
        with pytest.raises(JudgeError, match="status 404"):
            judge_all(session, questions, judge)
        kept = len(session.answers)
        assert 0 < kept < 20
        session.close()
        healthy[0], before = True, len(server.requests)
        session = Session(tmp_path / "judge")
        judge_all(session, questions, judge, workers=4)
        assert len(session.answers) == 20 and len(server.requests) - before == 20 - kept
        assert all(answer.winner.startswith("good") for answer in session.answers)
        session.close()
    for file in (tmp_path / "judge").iterdir():
        assert KEY.encode() not in file.read_bytes()
