"""Single responses called good or bad: read, paired up by prompt, taken from pairs, in ids."""

from __future__ import annotations

import json

import pytest

from dpo_lab.data.preferences import Preferences, load_preferences, preferences_from_rows
from dpo_lab.data.problems import BadRows
from dpo_lab.data.thumbs import is_good
from dpo_lab.data.tokenized_pairs import tokenize_pairs
from dpo_lab.models.loading import load_model


def thumb(prompt, completion, label) -> dict:
    return {"prompt": prompt, "completion": completion, "label": label}


ROWS = [
    thumb("p", "a", True), thumb("p", "b", False), thumb("q", "c", True), thumb("p", "d", 1),
    thumb("p", "e", "down"), thumb("p ", "f", 0.0), thumb("r", "g", False),
]  # fmt: skip


def sides(loaded: Preferences) -> list[tuple]:
    return [(pair.prompt, pair.chosen, pair.rejected) for pair in loaded]


def test_a_thumb_is_a_pair_with_one_side():
    loaded = preferences_from_rows(ROWS, thumbs="keep")
    assert sides(loaded) == [
        ("p", "a", ""), ("p", "", "b"), ("q", "c", ""), ("p", "d", ""), ("p", "", "e"),
        ("p ", "", "f"), ("r", "", "g"),
    ]  # fmt: skip
    assert all(pair.single for pair in loaded)
    assert str(loaded.report).startswith(
        "rows: 7 single responses (3 good, 4 bad) from 7 rows; read as thumbs (prompt, completion, "
    )
    assert not loaded.report.unused_columns
    assert loaded[0].swapped() == preferences_from_rows([thumb("p", "a", False)], thumbs="keep")[0]


CHAT = [{"role": "user", "content": "p"}]
ANSWER = {"role": "assistant", "content": "a"}
SHAPES = [
    thumb(CHAT, [ANSWER], True),
    {"messages": [*CHAT, ANSWER], "label": True, "id": 7},
    {"conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "a"}],
     "kto_tag": True},
]  # fmt: skip


@pytest.mark.parametrize("row", SHAPES, ids=["completion", "messages", "sharegpt"])
def test_conversations_and_other_layouts(row):
    (pair,) = preferences_from_rows([row], thumbs="keep")
    assert (pair.prompt, pair.chosen, pair.rejected) == (CHAT, [ANSWER], "")
    assert "thumbs" in preferences_from_rows([row], thumbs="keep").report.layout
    alpaca = {"instruction": "p", "input": "more", "output": "a", "kto_tag": False}
    (pair,) = preferences_from_rows([alpaca], thumbs="keep")
    assert (pair.prompt, pair.chosen, pair.rejected) == ("p\nmore", "", "a")


def test_they_are_paired_up_by_prompt():
    """To p: good a, d; bad b, e, f. To q and to r one each, which stay alone."""
    everyone = preferences_from_rows(ROWS, thumbs="all")
    pairs = [("a", "b"), ("a", "e"), ("a", "f"), ("d", "b"), ("d", "e"), ("d", "f")]
    assert [(pair.chosen, pair.rejected) for pair in everyone] == pairs
    assert len({pair.place for pair in everyone}) == 6
    assert str(everyone.report).startswith(
        "rows: 6 pairs of 5 single responses, 2 unpaired, from 7 rows; read as thumbs"
    )
    balanced = preferences_from_rows(ROWS, thumbs="balanced")
    assert [(pair.chosen, pair.rejected) for pair in balanced] == [("a", "b"), ("d", "e")]
    assert "2 pairs of 4 single responses, 3 unpaired," in str(balanced.report)


def test_a_limit_is_one_of_what_is_made(tmp_path):
    """Two pairs, of three good and bad responses; two single responses, of one pair."""
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    two = load_preferences(file, thumbs="all", limit=2)
    assert [(pair.chosen, pair.rejected) for pair in two] == [("a", "b"), ("a", "e")]
    assert len(load_preferences(file, thumbs="keep", limit=2)) == two.report.kept == 2
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    file.write_text("\n".join([json.dumps(pair)] * 3))
    assert sides(load_preferences(file, thumbs="keep", limit=2)) == [("p", "a", ""), ("p", "", "b")]


def test_pairs_are_taken_apart_for_a_loss_of_single_responses():
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 2, "score_rejected": 1}
    loaded = preferences_from_rows([row], thumbs="keep")
    assert sides(loaded) == [("p", "a", ""), ("p", "", "b")]
    assert [pair.place for pair in loaded] == [(1, 0), (1, 1)]
    ranked = {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [1, 2, 3]}
    assert len({pair.place for pair in preferences_from_rows([ranked], thumbs="keep")}) == 6


def test_without_a_loss_for_them_they_are_refused_with_both_ways_out(tmp_path):
    with pytest.raises(ValueError, match="--loss kto") as error:
        preferences_from_rows(ROWS)
    assert "--pair-up all" in str(error.value)
    with pytest.raises(ValueError, match="no prompt has both a good and a bad response"):
        preferences_from_rows(ROWS[2:3], thumbs="all")
    file = tmp_path / "thumbs.csv"
    file.write_text("ask,said,like\np,a,yes\nq,b,no\n")
    columns = {"prompt": "ask", "completion": "said", "label": "like"}
    loaded = load_preferences(file, columns=columns, thumbs="keep")
    assert sides(loaded) == [("p", "a", ""), ("q", "", "b")]


BAD = [
    (thumb("p", "a", "maybe"), "row 2, 'label': wrong type ('maybe' is no label; write true"),
    (thumb("p", "a", 4.5), "row 2, 'label': wrong type (4.5 is no label"),
    (thumb("p", "a", ""), "row 2, 'label': missing (no thumb up or down)"),
    (thumb("p", "a", None), "row 2, 'label': missing"),
    (thumb("p", " ", True), "row 2, 'completion': empty"),
    (thumb("p", 3, False), "row 2, 'completion': wrong type (int, not text or a list of mess"),
    (thumb("", "a", True), "row 2, 'prompt': empty"),
    (thumb(CHAT, [ANSWER, ANSWER], True), "row 2, 'completion': roles out of order"),
    ({"prompt": "p", "completion": "a"}, "row 2, 'label': missing"),
]  # fmt: skip


@pytest.mark.parametrize("row, words", BAD)
def test_a_row_that_cannot_be_used_is_named_in_its_own_columns(row, words):
    with pytest.raises(BadRows) as error:
        preferences_from_rows([ROWS[0], row], on_bad_rows="raise", thumbs="keep")
    assert words in str(error.value)


@pytest.mark.parametrize("completion", ["(no other response)", "(no response beside it)"])
def test_a_response_may_be_what_stands_in_for_another(completion):
    for label in (True, False):
        (pair,) = preferences_from_rows([thumb("p", completion, label)], thumbs="keep")
        assert (pair.chosen, pair.rejected) == ((completion, "") if label else ("", completion))


def test_labels_in_many_forms():
    for value in (True, 1, 1.0, "TRUE", " up", "👍", "desirable"):
        assert is_good("label", value)
    for value in (False, 0, 0.0, "false", "bad", "👎", "thumbs_down"):
        assert not is_good("label", value)


def test_ids_of_one_side_are_those_that_a_pair_has():
    """The other side is empty; the cut of a long one is counted; an empty one is refused."""
    model = load_model("micro")
    rows = [("the plot was", "really good"), ("the acting felt", "dull and bad")]
    pairs = [{"prompt": p, "chosen": r, "rejected": "fine"} for p, r in rows]
    whole = tokenize_pairs(preferences_from_rows(pairs), model.tokenizer)
    thumbs = preferences_from_rows(
        [thumb(p, r, label) for (p, r), label in zip(rows, (True, False), strict=True)],
        thumbs="keep",
    )
    first, second = tokenize_pairs(thumbs, model.tokenizer)
    assert (first.prompt, first.chosen, first.rejected) == (whole[0].prompt, whole[0].chosen, ())
    assert (second.prompt, second.chosen, second.rejected) == (whole[1].prompt, (), whole[1].chosen)
    assert first.single and len(first) == len(first.prompt) + len(first.chosen)
    short = tokenize_pairs(thumbs, model.tokenizer, max_length=len(second) - 1)
    assert short.truncated_responses + short.truncated_prompts >= 1 and len(short) == 2
