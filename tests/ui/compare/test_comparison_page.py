"""The page of a comparison: every text escaped, every number of the result on it."""

from __future__ import annotations

from dpo_lab.analysis.forgetting import TextChange
from dpo_lab.analysis.judge_agreement import agreement
from dpo_lab.annotation.blind import blind_questions
from dpo_lab.annotation.questions import Answer
from dpo_lab.annotation.side_answers import AnswerPair
from dpo_lab.training.outcome import MeanCI
from dpo_lab.ui.compare.page import SHOWN, agreement_words, write_page
from dpo_lab.ui.compare.result import ComparisonResult

ATTACK = "<img src=x onerror=alert(1)>"


def page_of(tmp_path, pairs, **options) -> str:
    answers = [Answer(question, "A") for question in blind_questions(pairs, 0)]
    names = (f"mine {ATTACK}", "reference")
    judges = {f"judge {ATTACK}": answers, "other": answers[::2]}
    result = ComparisonResult.of(names, pairs, judges, **options)
    return write_page(tmp_path / "deep" / "report.html", result, f"title {ATTACK}").read_text()


def test_no_text_runs_and_nothing_is_fetched(tmp_path):
    page = page_of(tmp_path, [AnswerPair(0, ATTACK, ATTACK, f"b {ATTACK}")], notes=[ATTACK])
    assert "<img" not in page and "<script" not in page and page.count("&lt;img") >= 6
    assert "script-src 'none'" in page and "default-src 'none'" in page


def test_the_numbers_are_on_it(tmp_path):
    pairs = [AnswerPair(n, f"prompt {n}", f"a{n}", f"b {n}", a_cut=n == 0) for n in range(30)]
    change = TextChange(-3.25, -3.1, MeanCI(-0.15, -0.2, -0.1, 20), 1400)
    page = page_of(tmp_path, pairs, forgetting=change)
    assert "The answer shown first wins 100.0 %" in page
    assert "of 30 prompts 0 won, 30 tied, 0 lost" in page
    assert "−0.1500 (95 % interval −0.2000 to −0.1000, 20 passages" in page
    assert "+16.2 % of perplexity" in page and "has lost some of it" in page and "a0 …(cut)" in page
    assert f"<summary>{30 - SHOWN} more</summary>" in page and "b 29" in page
    assert page.count("the same verdict on") == 1


def test_without_a_judge_the_answers_are_there(tmp_path):
    result = ComparisonResult.of(("A", "B"), [AnswerPair(0, "p", "", "answer")], {})
    page = write_page(tmp_path / "r.html", result, "t").read_text()
    assert "Nobody has judged" in page and "<em>(empty)</em>" in page and "answer" in page


def test_agreement_in_words():
    assert "κ 0.00 (" in agreement_words(agreement("AABB", "ABAB"))
    assert agreement_words(agreement("AAA", "AAA")).endswith("chance would agree too")
