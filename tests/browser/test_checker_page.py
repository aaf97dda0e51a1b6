"""The widget of a check in a real JupyterLab: a click, its findings, its figure."""

from __future__ import annotations

import json

import nbformat
import pytest
from page import Page
from planted_pairs import planted_rows

pytestmark = pytest.mark.slow

SOURCE = "from dpo_lab import DataChecker\nchecker = DataChecker('planted.jsonl')\nchecker"


def test_a_click_shows_findings_and_lengths(page: Page, lab_folder, pictures) -> None:
    rows = (json.dumps(row) + "\n" for row in planted_rows(1000, 0.8))
    (lab_folder / "planted.jsonl").write_text("".join(rows))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    cells = [nbformat.v4.new_code_cell(SOURCE)]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, lab_folder / "check.ipynb")
    page.open("check.ipynb")
    page.run_command("notebook:run-all-cells")
    page.page.locator(".dpo-checker button").click(timeout=90_000)
    page.page.wait_for_selector(".dpo-checker .js-plotly-plot .main-svg", timeout=90_000)
    findings = page.page.locator(".dpo-checker .finding")
    titles = findings.locator("h3").all_inner_texts()
    assert any("The same pair with both labels" in title for title in titles)
    assert findings.first.locator("th").first.inner_text().startswith("train row")
    inside = page.page.evaluate(
        "[...document.querySelectorAll('.dpo-checker .finding')].every("
        "one => one.scrollWidth <= one.clientWidth)"
    )
    assert inside, "nothing is cut at the side"
    pictures(page, "checker")
    assert page.problems == []
