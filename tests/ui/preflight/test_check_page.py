"""The page of a check: its numbers, its figure, and no text of the data run as markup."""

import json
import re

import pytest

from dpo_lab import check_data
from dpo_lab.ui.figures.preflight import preflight_figure
from dpo_lab.ui.html.page_policy import scripts_of
from dpo_lab.ui.preflight.page import write_page

ATTACK = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def found():
    rows = [
        {"prompt": f"the acting felt {n}", "chosen": f"great {n}", "rejected": "bad"}
        for n in range(40)
    ]
    rows += [{"prompt": ATTACK, "chosen": f"good {ATTACK} $x$", "rejected": ATTACK, "note": 1}] * 2
    rows += [{"prompt": ATTACK, "chosen": ATTACK, "rejected": ATTACK, f"{ATTACK}": 1}]
    return check_data(rows, max_length=200)


def test_the_page_says_what_was_found_and_escapes_all_of_it(found, tmp_path):
    page = write_page(tmp_path / "check.html", found).read_text()
    shown = page
    for script in scripts_of(page):
        shown = shown.replace(script, "")
    assert ATTACK not in shown and "&lt;img src=x onerror=alert(1)&gt;" in shown
    text = re.sub(r"<[^>]+>", " ", shown)
    text = " ".join(text.split())
    assert "Rows skipped: equal to chosen 1 of 43" in text
    assert "model or data were handed over, not named" in text
    assert "script-src 'sha256-" in page and "default-src 'none'" in page


def test_the_figure_shows_the_counts(found, tmp_path):
    figure = preflight_figure(found.data)
    bars, chosen, rejected, rules = figure.data
    assert sum(bars.y) == found.data.lengths["pair"].number == 42
    assert sum(chosen.y[:-1]) == sum(rejected.y[:-1]) == 42
    assert list(rules.x) == [rule.share for rule in reversed(found.data.rules)]
    assert "0 above max_length 200" in figure.layout.annotations[0].text
    written = json.loads(figure.to_json())
    assert "<img" not in json.dumps(written)
