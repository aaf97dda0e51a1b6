"""The heat map of token credit, and fragments of HTML: what they show, and that none of it runs."""

from __future__ import annotations

import re

import pytest
import torch

from dpo_lab.analysis.displacement import Share, StepDisplacement
from dpo_lab.analysis.response_stats import AnswerForm
from dpo_lab.analysis.token_credit import Credit
from dpo_lab.training.outcome import MeanCI
from dpo_lab.ui.figures.displacement import steps_table
from dpo_lab.ui.figures.responses import form_figure, form_table
from dpo_lab.ui.html.credit import credit_map, in_words
from dpo_lab.ui.html.output import Fragment, visible
from dpo_lab.ui.html.tables import table

HOSTILE = "<img src=x onerror=alert(1)>"


def _credit(
    texts=(" good", "\n", "<end>"), policy=(-1.0, -2.0, -0.5), reference=(-3.0, -1.0, -0.5)
):
    return Credit(
        tuple(texts),
        torch.tensor(policy, dtype=torch.float64),
        torch.tensor(reference, dtype=torch.float64),
        beta=0.5,
        ends=True,
    )


def test_numbers_colours_and_white_space_of_each_token() -> None:
    """0.5 x (-1 - -3) = 1, 0.5 x (-2 - -1) = -0.5, 0: the first is the strongest blue."""
    html = credit_map({"chosen": _credit()}, "how was it?").html
    assert re.findall(r"<small>(.*?)</small>", html) == ["+1.00", "−0.50", "0.00"]
    colours = re.findall(r"background-color: rgba\((.*?)\)", html)
    assert colours == ["0, 114, 178, 0.700", "213, 94, 0, 0.350", "213, 94, 0, 0.000"]
    assert "<span class='space'>␣</span>good" in html and "↵" in html
    assert "token end" in html and "&lt;end&gt;" in html and "how was it?" in html
    assert "credit +1.00 = β 0.5 × (−1 − (−3)) nats" in html
    assert "+1.00 for" in html and "−1.00 against" in html


def test_rows_share_one_scale() -> None:
    quiet = _credit(policy=(-2.8, -1.0, -0.5))
    html = credit_map({"chosen": _credit(), "rejected": quiet}).html
    strengths = [float(found) for found in re.findall(r"rgba\([\d, ]+, (0\.\d{3})\)", html)]
    assert strengths[0] == 0.7 and strengths[3] == pytest.approx(0.07, abs=1e-3)


def test_the_same_in_words() -> None:
    words = "chosen: reward +0.50, the sum of 3 tokens; most for “good” (+1.00); "
    words += "most against “\\n” (−0.50)"
    assert in_words("chosen", _credit()) == words
    shown = credit_map({"chosen": _credit()}, "p")
    assert words in shown.words and shown._repr_mimebundle_()["text/plain"] == shown.words
    assert "aria-label='chosen: reward +0.50" in shown.html
    same = _credit(policy=(-3.0, -1.0, -0.5))
    assert in_words("chosen", same) == "chosen: reward 0.00, the sum of 3 tokens"
    assert "rgba(0, 114, 178, 0.700)" in credit_map({"chosen": same}).html  # the scale, no crash


def test_no_text_becomes_an_element() -> None:
    hostile = _credit((HOSTILE, "'\" onmouseover=alert(1) x='", "</style><script>"))
    step = StepDisplacement(
        Share(HOSTILE, 0.5, 0.1), (Share(HOSTILE, 0.1, 0.5),), (Share("<b>", 0.5, 0.1),), 0.4
    )
    form = AnswerForm(*[MeanCI(0.5, 0.4, 0.6, 10)] * 4, 1)
    pages = [
        credit_map({HOSTILE: hostile}, HOSTILE).html,
        steps_table([step], HOSTILE).html,
        form_table({HOSTILE: form}).html,
        table([HOSTILE], [[HOSTILE]]),
        visible(HOSTILE),
        form_figure({HOSTILE: form}).to_json(),
    ]
    for page in pages:
        assert "<img" not in page and "<script" not in page and '<b>"' not in page
        # Within an attribute no quote may end it.
        assert "' onmouseover" not in page and '" onmouseover' not in page
        assert "&lt;img src=x onerror=alert(1)&gt;" in page.replace("\\u003c", "<") or (
            "space" in page and "&lt;img" in page
        )


def test_a_table_escapes_texts_and_keeps_fragments() -> None:
    html = table(("a", "b"), [("<i>", Fragment("<i>x</i>", "x"))], ("b",), (30, 70))
    assert "<td style='text-align:left' dir='auto'>&lt;i&gt;</td>" in html
    assert "<td class='number' dir='auto'><i>x</i></td>" in html
    assert html.count("<col ") == 2 and "width: 70%" in html


def test_form_in_a_table_and_a_figure() -> None:
    before = AnswerForm(
        MeanCI(2, 1.9, 2.1, 100), MeanCI(0.1, 0.05, 0.15, 100), MeanCI(1, 0.96, 1, 100),
        MeanCI(0.5, 0.4, 0.6, 10), 2,
    )  # fmt: skip
    after = AnswerForm(
        MeanCI(3, 2.9, 3.1, 100), MeanCI(0.3, 0.25, 0.35, 100), MeanCI(0.9, 0.83, 0.94, 100),
        MeanCI(0.2, 0.1, 0.3, 10), 2,
    )  # fmt: skip
    shown = form_table({"before": before, "after": after})
    assert "length (tokens): before 2 (1.9 to 2.1), after 3 (2.9 to 3.1)" in shown.words
    assert "repeated 2-grams" in shown.html and "90.0% (83.0% to 94.0%)" in shown.html
    length, repeated, ended, variety = form_figure({"before": before, "after": after}).data
    assert list(length.y) == [2, 3] and list(ended.error_y.arrayminus) == pytest.approx(
        [0.04, 0.07]
    )
    assert list(repeated.error_y.array) == pytest.approx([0.05, 0.05])
    assert list(variety.y) == [0.5, 0.2]
