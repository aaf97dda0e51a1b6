"""The coloured view of a pair: escaped, said in words, and short where rows are long."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from dpo_lab.analysis.token_report import PairTokens, Side, Token, pair_tokens
from dpo_lab.data.preferences import load_preferences, preferences_from_rows
from dpo_lab.models.scoring import LogpScorer
from dpo_lab.ui.figures.style import CHOSEN, REJECTED
from dpo_lab.ui.html.token_view import SHOWN_OF_PROMPT, notices, tokens_html

ATTACKS = ("<img src=x onerror=alert(1)>", "</td><script>alert(1)</script>", "' onclick='x' \"")
PLAIN = {"div", "p", "b", "span", "small", "bdi", "br", "details", "summary"}
PLAIN |= {"table", "thead", "tbody", "tr", "th", "td"}


class Page(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, source: str):
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.titles: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.titles += [value for name, value in attrs if name == "title"]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def row():
    return load_preferences("reviews", limit=1)[0]


def test_it_shows_text_positions_and_log_probabilities_and_the_same_in_words(micro, row) -> None:
    pair = pair_tokens(row, micro.tokenizer, policy=LogpScorer.probed(micro))
    page = Page(tokens_html(pair))
    for token in (*pair.chosen.tokens, *pair.rejected.tokens):
        assert page.text.count(token.text) >= 2  # as a token, and in the table
        assert token.why in page.text
        assert any(f"id {token.id}\nposition {token.position}\n" in tip for tip in page.titles)
    assert "prompt · 4 tokens read, not scored, the same for both" in page.text
    assert "position 3 predicts the first token of both responses" in page.text
    assert "chosen response · 4 tokens scored" in page.text
    assert f"= −{-pair.chosen.logp:.4f}" in page.text
    assert "-0.00" not in page.text and "−0.00" not in page.text
    assert "All 11 tokens in words" in page.text


def test_both_log_probabilities_and_their_difference(micro, row) -> None:
    pair = pair_tokens(row, micro.tokenizer, policy=LogpScorer.probed(micro))
    tokens = [replace(t, reference_logp=t.logp and t.logp - 1) for t in pair.chosen.tokens]
    text = Page(tokens_html(replace(pair, chosen=Side(tuple(tokens))))).text
    changed = sum(bool(t.logp) for t in pair.chosen.tokens)
    assert f"log-ratio {changed}.0000" in text


def test_what_is_scored_has_its_sides_colour_and_an_edge(micro, row) -> None:
    pair = pair_tokens(row, micro.tokenizer)
    cells = re.findall(r"<span style='([^']*)' title=", tokens_html(pair))
    kinds = ["read"] * 4 + [CHOSEN] * 4 + [REJECTED] * 3
    assert len(cells) == len(kinds)
    for style, kind in zip(cells, kinds, strict=True):
        edges = [
            colour for colour in (CHOSEN, REJECTED) if f"border-bottom:2px solid {colour}" in style
        ]
        assert edges == ([] if kind == "read" else [kind])
    assert "dotted" in cells[0] and f"border:2px solid {CHOSEN}" in cells[7]


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_text_becomes_markup(micro, attack) -> None:
    rows = [{"prompt": f"the {attack} plot", "chosen": f"good {attack}", "rejected": attack}]
    tokens = [
        Token(attack, attack, 5, part, attack, position=place, predicted_by=by, cut=cut)
        for place, (part, by, cut) in enumerate(
            [("prompt", None, False), ("prompt", None, True), ("response", 1, False)]
        )
    ]
    side = Side((*tokens, replace(tokens[-1], part="end token", logp=-1.0)))
    (pair,) = preferences_from_rows(rows)
    shown = [
        pair_tokens(pair, micro.tokenizer, policy=LogpScorer.probed(micro)),
        PairTokens(1, side, side),
        PairTokens(1, side, side, dropped=attack),
        PairTokens(1, Side(()), Side(()), dropped=attack),
    ]
    for one in shown:
        for table in ("folded", "open", "none"):
            page = Page(tokens_html(one, table=table))
            assert page.elements <= PLAIN
            assert page.attributes <= {"class", "style", "title", "open", "scope", "dir"}
    # A text is there as text: in a token, in a tip, in a reason.
    page = Page(tokens_html(shown[1]))
    assert attack in page.text and any(attack in tip or repr(attack) in tip for tip in page.titles)
    assert attack in Page(tokens_html(shown[2])).text and attack in Page(tokens_html(shown[3])).text


def test_cuts_are_told_in_words_and_crossed_out(micro, row) -> None:
    pair = pair_tokens(row, micro.tokenizer, max_length=6)
    prompt, response = notices(pair)
    assert "its beginning, 1 token, is never read. Its end, 2 tokens, is, with BOS kept" in prompt
    assert "The chosen response was cut: its end, 1 token" in response
    assert "end token is lost" in response
    page = tokens_html(pair, legend=False, table="none")
    assert re.findall(r"line-through'>([^<]*)<", page) == ["the", "&lt;end&gt;"]
    # In order of the text: BOS, what was cut after it, what is read.
    places = [Page(page).text.index(words) for words in ("0 <bos>", "– the", "1 plot")]
    assert places == sorted(places)
    assert notices(pair_tokens(row, micro.tokenizer)) == []


def test_a_dropped_row_is_not_said_to_be_scored(micro, row) -> None:
    pair = pair_tokens(row, micro.tokenizer, max_length=4, max_prompt_length=4)
    text = Page(tokens_html(pair, legend=False, table="none")).text
    assert "Training leaves row 1 out: response empty after truncation." in text
    assert "dull" in text and "scored" not in text and "predicts" not in text


def test_a_long_prompt_is_folded_but_for_its_end(micro) -> None:
    words = " ".join(["the plot was"] * 50)
    (row,) = preferences_from_rows([{"prompt": words, "chosen": "good", "rejected": "bad"}])
    page = tokens_html(pair_tokens(row, micro.tokenizer), legend=False, table="none")
    folded, shown = page.split("</details>")
    assert f"{151 - SHOWN_OF_PROMPT} tokens of the prompt" in folded
    assert shown.count("title=") == SHOWN_OF_PROMPT + 4
    cut = tokens_html(pair_tokens(row, micro.tokenizer, max_length=100), table="none")
    assert "53 tokens cut from the prompt" in cut and "0 tokens" not in Page(cut).text


def test_legend_and_table_may_be_left_out(micro, row) -> None:
    pair = pair_tokens(row, micro.tokenizer)
    assert "never read" not in tokens_html(pair, legend=False)
    assert "<table" not in tokens_html(pair, table="none")
    assert "<details open>" in tokens_html(pair, table="open")
    assert "<details>" in tokens_html(pair)
