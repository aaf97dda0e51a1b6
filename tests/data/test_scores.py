"""Scores of two responses: read, checked, ties left out or kept."""

from __future__ import annotations

import pytest

from dpo_lab.data.preferences import load_preferences, preferences_from_rows
from dpo_lab.data.problems import BadRows

PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}


def scored(chosen, rejected) -> dict:
    return PAIR | {"score_chosen": chosen, "score_rejected": rejected}


def test_scores_become_a_margin_and_ties_are_left_out_and_counted():
    rows = [scored(8.5, 7), scored(3, 3.0), scored("9", " 6.5 "), scored(None, 2), PAIR]
    loaded = preferences_from_rows(rows)
    assert [pair.score_margin for pair in loaded] == [1.5, 2.5, None, None]
    assert (loaded.report.kept, loaded.report.rows, loaded.report.ties) == (4, 5, 1)
    assert "1 tie left out, whose two scores are equal" in str(loaded.report)
    assert "unused" not in str(loaded.report)
    assert loaded[0].swapped().score_margin == -1.5
    kept = preferences_from_rows(rows, keep_ties=True)
    assert [pair.score_margin for pair in kept] == [1.5, 0.0, 2.5, None, None]
    assert kept.report.ties == 0
    assert kept.fingerprint() != preferences_from_rows([PAIR] * 5).fingerprint()


def test_one_score_alone_is_an_unused_column():
    loaded = preferences_from_rows([PAIR | {"score_chosen": 5}])
    assert loaded[0].score_margin is None and loaded.report.unused_columns == {"score_chosen": 1}


def test_columns_of_scores_are_mapped(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text("prompt,chosen,rejected,a,b\np,good,bad,5,2\nq,good,bad,4,4\n")
    columns = {"score_chosen": "a", "score_rejected": "b"}
    loaded = load_preferences(file, columns=columns)
    assert [pair.score_margin for pair in loaded] == [3.0]
    both = load_preferences(file, columns=columns, keep_ties=True, limit=2)
    assert len(both) == 2


BAD = [
    (scored(1, 2), "row 1, 'score_rejected': rejected has the higher score (2 against 1; if lower"),
    (scored("high", 2), "row 1, 'score_chosen': wrong type ('high' is no score)"),
    (scored([1], 2), "row 1, 'score_chosen': wrong type ([1] is no score)"),
    (scored(float("inf"), 2), "row 1, 'score_chosen': wrong type (inf is no finite score)"),
]


@pytest.mark.parametrize("row, words", BAD)
def test_scores_that_cannot_be_used_are_named(row, words):
    with pytest.raises(BadRows) as error:
        preferences_from_rows([row], on_bad_rows="raise")
    assert words in str(error.value)


def test_a_data_set_of_ties_alone_says_so():
    with pytest.raises(ValueError, match="1 rows can be used .1 ties, two equal scores each"):
        preferences_from_rows([scored(1, 1)])
