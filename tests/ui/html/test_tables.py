"""Templates escape what they are given, and say where they take markup for what it is."""

import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

import dpo_lab.ui
from dpo_lab.ui.html.output import Fragment
from dpo_lab.ui.html.tables import render, table

HOSTILE = "<b> & '\" $x$"
ESCAPED = "&lt;b&gt; &amp; &#x27;&quot; &#36;x&#36;"


def test_cells_and_titles_are_escaped_dollar_signs_too():
    page = table([HOSTILE, "n"], [[HOSTILE, Fragment("<i>1</i>", "1")]], ("n",), kind=HOSTILE)
    assert page.count(ESCAPED) == 3 and "$" not in page and "<b>" not in page
    assert f"<td style='text-align:left' dir='auto'>{ESCAPED}</td>" in page
    assert "<th scope='col' class='number'>n</th>" in page
    assert "<td class='number' dir='auto'><i>1</i></td>" in page


def test_without_titles_each_row_has_its_own():
    page = table((), [("beta", 0.1)])
    assert "<thead>" not in page
    assert (
        "<th scope='row' style='text-align:left'>beta</th>" in page
        and "<td style='text-align:left' dir='auto'>0.1</td>" in page
    )


def test_a_value_that_a_template_misses_is_an_error():
    with pytest.raises(UndefinedError, match="rows"):
        render("html/table.html.jinja", titles=(), numbers=(), widths=(), kind="")


def test_templates_take_as_markup_only_what_the_lab_has_escaped():
    folder = Path(dpo_lab.ui.__file__).parent
    sources = [path.read_text(encoding="utf-8") for path in folder.rglob("*.jinja")]
    marked = {found for text in sources for found in re.findall(r"{{-? ([^{}]*?)\|safe", text)}
    assert len(sources) >= 5
    assert marked == {
        "policy", "style", "script", "data_list", "samples_table(samples[:shown])", "table",
        "token.code", "scripts", "settings", "judged", "answers", "rest",
    }  # fmt: skip
    assert not any(re.search(r"autoescape|Markup", text) for text in sources)
