"""What the README and the pages of docs/ say: their code runs, their tables and links hold."""

import json
import re
from pathlib import Path

import nbformat
import pytest
import rlhf

from dpo_lab.objective.registry import LOSSES

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # runs are kept below the folder that one is in
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    exec(block, {})
    assert capsys.readouterr().out.splitlines()[0] == "0 None"


def test_the_code_of_the_workbenchs_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "workbench.md").read_text(), re.S)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
        exec(block, names)
    bench = names["bench"]
    assert bench.run.state == "done" and len(bench.shelf.runs) == 2
    assert bench.run.records[-1].beta == 1 and bench.run.records[50].beta == 0.1
    bench.close()


def test_the_code_of_the_page_on_comparing_runs(tmp_path, monkeypatch, capsys):
    """Its first block; the second opens a run that is not there."""
    monkeypatch.chdir(tmp_path)
    block, _ = re.findall(r"```python\n(.*?)```", (DOCS / "compare.md").read_text(), re.S)
    exec(block, {})
    assert capsys.readouterr().out.startswith("MeanCI(mean=")
    assert (tmp_path / "compare" / "report.html").exists()


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 130


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_table_of_losses_is_the_registrys() -> None:
    text = (DOCS / "losses.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    cells = {row.split("`")[1]: row.replace("\\|", "|") for row in rows}
    beside_trl = {name for name, loss in LOSSES.items() if loss.trl}
    for name in {*cells, *beside_trl}:
        loss = LOSSES[name]
        assert f"`{loss.formula}`" in cells[name]
        assert f"[{loss.citation}](https://arxiv.org/abs/{loss.arxiv})" in cells[name]
        assert f"| {loss.status} |" in cells[name]
        assert re.search(r"\| (\d[.\de+-]+|TRL has none)[^|]* \|$", cells[name])


def test_every_question_names_a_heading_that_its_notebook_has() -> None:
    text = (DOCS / "questions.md").read_text()
    table = text[text.index("| question | cell |") :].split("\n\n")[0]
    named = re.findall(r"`(\d\d_\w+)`, \"(.*?)\"", table)
    assert len(table.splitlines()) - 2 == 10 and len(named) >= 10
    for name, heading in named:
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        words = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
        heads = re.findall(r"^#+ (.*)$", "\n".join(words), re.M)
        assert any(head.startswith(heading) for head in heads), (name, heading)


def test_the_table_of_methods_is_what_was_measured():
    rows = json.loads((ROOT / "benchmarks" / "results" / "rlhf.json").read_text())
    shown = re.findall(r"^\| (?:0\.3|1|3) \|.*$", (DOCS / "rlhf.md").read_text(), re.M)
    assert shown == [rlhf.table_line(row) for row in rows] and len(shown) == 30
    for row in rows:  # what is asked of the two methods that aim at the optimum by samples
        if row["method"] in ("RLOO", "online DPO"):
            assert row["of the frontier"] >= 0.97
