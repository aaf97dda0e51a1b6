"""Pages that are written run their own scripts alone; people's dollar signs are no formulas."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from dpo_lab.training.config import TrainConfig
from dpo_lab.training.records import SampleRecord
from dpo_lab.ui.html.output import Fragment
from dpo_lab.ui.html.page_policy import scripts_of
from dpo_lab.ui.html.tables import compared_answers, escaped, samples_table
from dpo_lab.ui.report.sweep_page import SweepPage, sweep_figure

FORMULA = r"pay $5 or $6, \(x\), $$y$$"
ROW = {"run": FORMULA, "beta": 0.1, "kl/per_token": 1.0, "score/policy": 2.0}


@pytest.fixture(scope="module")
def sweep_page(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "sweep.html"
    config = TrainConfig(model="none", data="one")
    configs = {"a": config, "b": TrainConfig(model="none", data="other")}
    return SweepPage(configs, path).write([ROW]).read_text()


def test_a_sweeps_page_allows_its_own_scripts_and_no_connection(sweep_page):
    (policy,) = re.findall(
        r'<meta http-equiv="Content-Security-Policy" content="(.*?)">', sweep_page
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert set(rules) - {"default-src", "style-src", "img-src", "script-src"} == {
        "form-action",
        "base-uri",
    }
    assert rules["form-action"] == rules["base-uri"] == "'none'"
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", sweep_page, re.DOTALL)
    digests = {
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'"
        for s in scripts
    }
    assert len(scripts) >= 2 and set(rules["script-src"].split()) == digests
    assert sweep_page.index("Content-Security-Policy") < sweep_page.index("<script")
    assert "<script src" not in sweep_page


def test_scripts_are_found_with_their_very_text():
    assert scripts_of("<script>a\n</script><p><script type='x'>b</script>") == ["a\n", "b"]


def test_no_text_of_plotly_has_dollars_that_it_would_set_as_a_formula():
    (trace,) = sweep_figure([ROW]).data
    assert trace.text[0].startswith("pay &#36;5 or &#36;6") and "$" not in trace.text[0]
    assert escaped("<$a$>") == "&lt;&#36;a&#36;&gt;"


class _Outside(HTMLParser):
    """Text outside of every element whose class tells MathJax to leave it alone."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[bool] = []
        self.found = ""

    def handle_starttag(self, tag, attributes):
        if tag not in ("br", "col", "wbr", "img"):
            kept = {"mathjax_ignore", "tex2jax_ignore"}
            self.open.append(kept <= set((dict(attributes).get("class") or "").split()))

    def handle_endtag(self, tag):
        self.open.pop()

    def handle_data(self, data):
        self.found += data * (not any(self.open))


def test_answers_and_pieces_of_a_cell_are_not_typeset():
    sample = SampleRecord(1, FORMULA, FORMULA, FORMULA)
    fragment = Fragment(f"<p>{escaped(FORMULA)}</p>", FORMULA)._repr_mimebundle_()["text/html"]
    for page in (samples_table([sample]), compared_answers({FORMULA: [sample]}), fragment):
        assert page.count("&#36;5") >= 1
        reader = _Outside()
        reader.feed(page)
        assert "5 or" not in reader.found
