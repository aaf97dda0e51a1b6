"""The widget: another row by value, by button and from code; what the limits change."""

from __future__ import annotations

import pytest

from dpo_lab.analysis.token_report import pair_tokens
from dpo_lab.data.preferences import preferences_from_rows
from dpo_lab.data.tokenized_pairs import tokenize_pairs
from dpo_lab.models.scoring import LogpScorer
from dpo_lab.ui.explorers import token_inspector as inspect
from dpo_lab.ui.explorers.token_inspector import TokenInspector
from dpo_lab.ui.html.token_view import tokens_html

ATTACK = "<img src=x onerror=alert(1)>"


def _page(inspector: TokenInspector) -> str:
    return inspector.page.value


def _words(inspector: TokenInspector) -> str:
    return inspector.words.value


def test_a_row_is_picked_from_code_by_the_slider_and_by_buttons(micro, reviews) -> None:
    scorer = LogpScorer.probed(micro)
    inspector = TokenInspector(reviews, micro.tokenizer, policy=scorer)
    ways = [
        (1, lambda: None),
        (3, lambda: setattr(inspector, "row", 3)),
        (7, lambda: setattr(inspector.slider, "value", 7)),
        (8, inspector.next.click),
        (7, inspector.previous.click),
        (100, lambda: setattr(inspector, "row", 100)),
        (100, inspector.next.click),
        (1, lambda: setattr(inspector, "row", 1)),
        (1, inspector.previous.click),
    ]
    for row, act in ways:
        act()
        assert inspector.row == inspector.slider.value == inspector.pair.row == row
        wanted = pair_tokens(reviews[row - 1], micro.tokenizer, policy=scorer)
        assert inspector.pair == wanted
        assert _page(inspector) == tokens_html(wanted, table="none")
    inspector.table.value = True
    assert _page(inspector) == tokens_html(wanted, table="open")


def test_what_goes_wrong_in_a_callback_is_told_in_place_of_the_former_row(
    micro, reviews, monkeypatch
) -> None:
    inspector = TokenInspector(reviews, micro.tokenizer)
    whole, words = _page(inspector), _words(inspector)

    def fails(*arguments, **options):
        raise RuntimeError(ATTACK)

    with monkeypatch.context() as broken:
        broken.setattr(inspect, "pair_tokens", fails)
        for act in (inspector.next.click, lambda: setattr(inspector.table, "value", True)):
            act()
            assert inspector.pair is None
            said = "Row 2 cannot be shown. RuntimeError: &lt;img"
            assert said in _page(inspector) and "<img" not in _page(inspector)
    with monkeypatch.context() as broken:
        broken.setattr(inspect, "tokenize_pairs", fails)
        inspector.max_length = 3
        assert "RuntimeError: &lt;img" in _page(inspector) and _words(inspector) == ""
        assert inspector.next_changed.disabled
    inspector.table.value, inspector.max_length = False, 512
    inspector.row = 1
    assert (_page(inspector), _words(inspector)) == (whole, words)


def test_rows_that_loading_skipped_are_passed_over_and_explained(micro) -> None:
    rows = [{"prompt": "the plot was", ATTACK: "good", "rejected": "bad"}] * 5
    rows[1] = rows[1] | {ATTACK: " "}
    options = {"columns": {"chosen": ATTACK}, "name": f"mine {ATTACK}"}
    loaded = preferences_from_rows(rows, on_bad_rows="skip", **options)
    inspector = TokenInspector(loaded, micro.tokenizer)
    inspector.next.click()
    assert inspector.row == 3
    inspector.previous.click()
    assert inspector.row == 1
    with pytest.raises(ValueError, match="row=2: was skipped on loading .*empty.*from 1 to 5"):
        inspector.row = 2
    with pytest.raises(ValueError, match="row=6: is not among the pairs .*from 1 to 5"):
        TokenInspector(loaded, micro.tokenizer, row=6)
    inspector.slider.value = 2
    assert inspector.pair is None and "Row 2 was skipped on loading" in _page(inspector)
    assert "<img" not in _page(inspector) and "&lt;img" in _page(inspector)
    inspector.next.click()
    assert inspector.row == 3
    assert "4 pairs from 5 rows, skipped: 1" in _words(inspector)
    assert "<img" not in _words(inspector) and "&lt;img" in _words(inspector)


@pytest.mark.parametrize("limits", [(512, None), (7, None), (6, None), (6, 4), (3, None)])
def test_counts_and_changed_rows_are_those_of_a_run(micro, reviews, limits) -> None:
    keywords = dict(zip(("max_length", "max_prompt_length"), limits, strict=True))
    inspector = TokenInspector(reviews, micro.tokenizer, **keywords)
    used = tokenize_pairs(reviews, micro.tokenizer, on_bad_rows="skip", **keywords)
    assert str(used) in _words(inspector)
    assert ("none cut" in _words(inspector)) == (
        not used.truncated_prompts + used.truncated_responses
    )
    assert ("none dropped" in _words(inspector)) == (not used.dropped)
    shown = {pair.row: pair_tokens(pair, micro.tokenizer, **keywords) for pair in reviews}
    wanted = [row for row, pair in shown.items() if pair.cut or pair.dropped]
    assert inspector.changed == wanted
    assert sum(bool(pair.prompt_cut) for pair in shown.values()) == used.truncated_prompts
    assert inspector.next_changed.disabled == (not wanted)
    for row in (*wanted, *wanted[:1])[:3]:
        inspector.next_changed.click()
        if row != 1:  # the first row is shown already
            assert inspector.pair.cut or inspector.pair.dropped


def test_the_search_for_changed_rows_begins_anew_after_the_last(micro, reviews) -> None:
    inspector = TokenInspector(reviews, micro.tokenizer, max_length=6, max_prompt_length=4)
    inspector.row = inspector.changed[-1]
    inspector.next_changed.click()
    assert inspector.row == inspector.changed[0]


def test_max_length_from_code_and_by_the_field(micro, reviews) -> None:
    inspector = TokenInspector(reviews, micro.tokenizer)
    assert not inspector.pair.cut and "none cut, none dropped" in _words(inspector)
    inspector.max_length = 6
    assert inspector.limit.value == 6 and inspector.pair.prompt_cut == 1
    assert "prompts truncated" in _words(inspector)
    inspector.limit.value = 8
    assert inspector.max_length == 8 and not inspector.pair.cut
    for wrong in (1, 0, -5):
        with pytest.raises(ValueError, match=f"max_length={wrong}: must be from 2"):
            inspector.max_length = wrong
    with pytest.raises(ValueError, match="max_length=1: must be"):
        TokenInspector(reviews, micro.tokenizer, max_length=1)
    with pytest.raises(ValueError, match="max_prompt_length=0: must be"):
        TokenInspector(reviews, micro.tokenizer, max_prompt_length=0)


def test_where_nothing_is_left_every_row_can_still_be_looked_at(micro, reviews) -> None:
    inspector = TokenInspector(reviews, micro.tokenizer, max_length=4, max_prompt_length=4)
    assert inspector.tokens is None and inspector.changed == [pair.row for pair in reviews]
    assert "no pair is left after tokenising" in _words(inspector)
    assert inspector.pair.dropped == "response empty after truncation"
    inspector.max_length = 8
    assert inspector.pair.dropped is None and len(inspector.tokens) == 100


def test_a_page_without_a_kernel_shows_the_row(micro) -> None:
    rows = [{"prompt": f"the {ATTACK}", "chosen": ATTACK, "rejected": "</td><script>x</script>"}]
    inspector = TokenInspector(preferences_from_rows(rows), micro.tokenizer)
    shown = inspector._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in shown
    assert "run this cell" in shown["text/plain"] and "dpo-tokens" in shown["text/html"]
    for tag in ("<img", "<script", "</script"):
        assert tag not in shown["text/html"]
