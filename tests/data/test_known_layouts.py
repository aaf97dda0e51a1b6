"""A small row in each published layout, written here, and the pair that it is."""

from __future__ import annotations

import json

import pytest

from dpo_lab.data.known_layouts import LAYOUTS
from dpo_lab.data.preferences import load_preferences, preferences_from_rows
from dpo_lab.data.problems import BadRows

TURNS = [{"role": "user", "content": "Hi?"}]
GOOD, BAD = ([{"role": "assistant", "content": text}] for text in ("good", "bad"))
WHOLE = {"chosen": TURNS + GOOD, "rejected": TURNS + BAD}
TEXTS = ("Hi?", "good", "bad")
CHAT = (TURNS, GOOD, BAD)

# name of the layout, row, (prompt, chosen, rejected), difference of the scores
PAIRS = [
    ("HelpSteer2 preferences",
     {"split": "train", "prompt": "Hi?", "response_1": "bad", "response_2": "good",
      "preference_strength": 2, "preference_statement": "@Response 2 is better"}, TEXTS, 2.0),
    ("HelpSteer2 preferences",
     {"prompt": "Hi?", "response_1": "good", "response_2": "bad", "preference_strength": -1},
     TEXTS, 1.0),
    ("HelpSteer3 preferences",
     {"domain": "general", "language": "english", "context": TURNS, "response1": "good",
      "response2": "bad", "overall_preference": -3, "individual_preference": []}, CHAT, 3.0),
    ("SHP",
     {"post_id": "a", "domain": "askbaking", "history": "Hi?", "human_ref_A": "bad",
      "human_ref_B": "good", "labels": 0, "score_A": 5, "score_B": 25, "score_ratio": 5.0},
     TEXTS, 20.0),
    ("SHP", {"history": "Hi?", "human_ref_A": "good", "human_ref_B": "bad", "labels": 1},
     TEXTS, None),
    ("PKU-SafeRLHF, the more helpful response",
     {"prompt": "Hi?", "response_0": "bad", "response_1": "good", "is_response_0_safe": True,
      "better_response_id": 1, "safer_response_id": 0}, TEXTS, None),
    ("Argilla UltraFeedback, mean ratings",
     {"source": "flan", "instruction": "Hi?", "chosen_response": "good",
      "rejected_response": "bad", "chosen_avg_rating": 4.75, "rejected_avg_rating": 3.5,
      "chosen_model": "m"}, TEXTS, 1.25),
    ("Argilla preferences, ratings",
     {"source": "flan", "prompt": "Hi?", **WHOLE, "chosen-rating": 5.0, "chosen-model": "m",
      "rejected-rating": 3.0, "rejected-model": "n"}, CHAT, 2.0),
    ("Argilla preferences, ratings",
     {"dataset": "mix", **WHOLE, "chosen_rating": 5.0, "rejected_rating": 4.5}, CHAT, 0.5),
    ("Argilla preferences, ratings",
     {**WHOLE, "rating_chosen": 5, "rating_rejected": 1}, CHAT, 4.0),
    ("UltraFeedback binarized",
     {"prompt": "Hi?", "prompt_id": "x", **WHOLE, "messages": WHOLE["chosen"],
      "score_chosen": 8.5, "score_rejected": 7.0}, CHAT, 1.5),
    ("Orca DPO pairs", {"system": "", "question": "Hi?", "chosen": "good", "rejected": "bad"},
     TEXTS, None),
    ("Orca DPO pairs", {"system": "Be brief.", "question": "Hi?", "chosen": "good",
                        "rejected": "bad"},
     ([{"role": "system", "content": "Be brief."}, *TURNS], GOOD, BAD), None),
    ("Argilla Orca DPO pairs",
     {"system": "", "input": "Hi?", "chosen": "good", "rejected": "bad", "status": "swapped",
      "rating": [3.0, 9.0], "generations": ["bad", "good"]}, TEXTS, 6.0),
    ("LLaMA-Factory preferences (Alpaca)",
     {"instruction": "Translate.", "input": "Hi?", "chosen": "good", "rejected": "bad"},
     ("Translate.\nHi?", "good", "bad"), None),
    ("LLaMA-Factory preferences (Alpaca)",
     {"instruction": "Hi?", "chosen": "good", "rejected": "bad"}, TEXTS, None),
    ("LLaMA-Factory preferences (Alpaca, before 2024)",
     {"instruction": "Hi?", "input": "", "output": ["good", "bad"]}, TEXTS, None),
    ("ShareGPT ranking",
     {"conversations": [{"from": "human", "value": "Hi?"}],
      "chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"}},
     CHAT, None),
    ("HH-RLHF",
     {"chosen": "\n\nHuman: Hi?\n\nAssistant: good",
      "rejected": "\n\nHuman: Hi?\n\nAssistant: bad"},
     ("\n\nHuman: Hi?\n\nAssistant:", " good", " bad"), None),
]  # fmt: skip


@pytest.mark.parametrize("name, row, pair, margin", PAIRS)
def test_a_published_layout_is_recognised_and_named(name, row, pair, margin, tmp_path):
    loaded = preferences_from_rows([row])
    assert loaded.report.layout == name and f"read as {name}" in str(loaded.report)
    (found,) = loaded
    assert (found.prompt, found.chosen, found.rejected) == pair
    assert found.score_margin == margin
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row))
    assert load_preferences(file)[0] == found


RANKED = [
    ("ranked responses",
     {"prompt": "Hi?", "responses": ["so so", "best", "worst"], "scores": [3, 9, 1.5]}, 1.0),
    ("ranked responses",
     {"prompt": "Hi?", "responses": ["so so", "best", "worst"], "ranks": [2, 1, 3]}, None),
    ("distilabel, rated generations",
     {"instruction": "Hi?", "generations": ["so so", "best", "worst"], "ratings": [3, 9, 1.5],
      "generation_models": ["a", "b", "c"]}, 1.0),
    ("UltraFeedback, four responses",
     {"source": "flan", "instruction": "Hi?", "models": ["a", "b", "c"], "completions": [
         {"model": "a", "response": "so so", "overall_score": 3.0},
         {"model": "b", "response": "best", "overall_score": 9.0},
         {"model": "c", "response": "worst", "overall_score": 1.5}]}, 1.0),
    ("Nectar, ranked responses",
     {"prompt": "Hi?", "turns": 1, "answers": [
         {"answer": "so so", "model": "a", "rank": 2.0}, {"answer": "best", "rank": 1.0},
         {"answer": "worst", "rank": 3.0}]}, None),
]  # fmt: skip


@pytest.mark.parametrize("name, row, scored", RANKED)
def test_ranked_responses_become_their_pairs(name, row, scored):
    loaded = preferences_from_rows([row, row])
    assert loaded.report.layout == name
    assert str(loaded.report).startswith("rows: 6 pairs from 2 rows")
    assert loaded.report.duplicates.rows == (2,)
    said = [(pair.chosen, pair.rejected, pair.score_margin) for pair in loaded]
    margins = (6.0, 7.5, 1.5) if scored else (1.0, 2.0, 1.0)
    pairs = [("best", "so so"), ("best", "worst"), ("so so", "worst")]
    expected = [(*pair, margin) for pair, margin in zip(pairs, margins, strict=True)]
    assert said == expected * 2 and {pair.prompt for pair in loaded} == {"Hi?"}
    assert [pair.place for pair in loaded] == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    best = preferences_from_rows([row], ranked_pairs="best")
    assert [(pair.chosen, pair.rejected) for pair in best] == pairs[:2]


def test_a_tie_in_a_ranking_and_a_repeated_response():
    row = {"prompt": "p", "responses": ["a", "b", "b", "c", "d"], "scores": [2, 2, 1, 1, None]}
    loaded = preferences_from_rows([row])
    assert [(pair.chosen, pair.rejected) for pair in loaded] == [("a", "c"), ("b", "c")]
    assert loaded.report.ties == 1
    assert len(preferences_from_rows([row], keep_ties=True)) == 3


UNUSABLE = [
    ({"prompt": "p", "responses": ["a", "b"], "scores": [1]}, "not as many scores as responses"),
    ({"prompt": "p", "responses": ["a", "a"], "scores": [1, 2]}, "fewer than two different resp"),
    ({"prompt": "p", "responses": "ab", "scores": [1, 2]}, "wrong type (str, not a list of resp"),
    ({"prompt": "p", "responses": ["a", "b"], "scores": None}, "'scores': missing (the rows are"),
    ({"prompt": "p", "responses": ["a", "b"], "scores": [1, "x"]}, "'x' is no score"),
    ({"prompt": "p", "responses": ["a", 3], "scores": [2, 1]}, "wrong type"),
    ({"prompt": "p"}, "'responses': missing"),
    (None, "wrong type"),
]


@pytest.mark.parametrize("row, words", UNUSABLE)
def test_a_row_that_does_not_fit_the_layout_is_named_by_number(row, words):
    good = {"prompt": "p", "responses": ["a", "b"], "scores": [1, 2]}
    with pytest.raises(BadRows, match="1 of 2 rows cannot be used: row 2") as error:
        preferences_from_rows([good, row], on_bad_rows="raise")
    assert words in str(error.value)


def test_columns_that_are_given_win():
    """Rows of SHP, of which the caller says otherwise."""
    row = PAIRS[3][1] | {"mine": "good", "other": "bad"}
    columns = {"prompt": "history", "chosen": "mine", "rejected": "other"}
    (pair,) = preferences_from_rows([row], columns=columns)
    assert (pair.prompt, pair.chosen, pair.rejected, pair.score_margin) == (*TEXTS, None)


def test_a_tie_of_two_responses_is_left_out():
    row = {"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": 0}
    better = row | {"prompt": "q", "preference_strength": 1}
    assert preferences_from_rows([row, better]).report.ties == 1
    tie = PAIRS[13][1] | {"status": "tie", "rating": [7.0, 7.0]}
    assert preferences_from_rows([tie, PAIRS[13][1]]).report.ties == 1


def test_no_two_layouts_claim_the_same_row_by_accident():
    for name, row, *_ in [*PAIRS, *RANKED]:
        assert {layout.name for layout in LAYOUTS if layout.matches(row)} == {name}


def test_the_first_row_that_can_be_read_decides(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"history": \n[1]\n' + json.dumps(PAIRS[3][1]) + "\n")
    loaded = load_preferences(file, on_bad_rows="skip")
    assert loaded.report.layout == "SHP" and loaded[0].row == 3


def test_the_labs_own_layout_needs_no_name():
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "id": 1}
    assert preferences_from_rows([row]).report.layout == ""
