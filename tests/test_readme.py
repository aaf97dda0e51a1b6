"""The README's code does what it says."""

import re
from pathlib import Path

import nbformat

from dpo_lab.objective.registry import LOSSES

README = Path(__file__).parents[1] / "README.md"


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # runs are kept below the folder that one is in
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert len(blocks) == 3
    names: dict = {}
    for block in blocks:
        exec(block, names)
    bench = names["bench"]
    assert bench.run.state == "done" and len(bench.shelf.runs) == 2
    assert bench.run.records[-1].beta == 1 and bench.run.records[50].beta == 0.1
    assert capsys.readouterr().out.splitlines()[0] == "0 None"
    bench.close()


def test_the_table_of_losses_is_the_registrys() -> None:
    rows = [line for line in README.read_text().splitlines() if line.startswith("| `")]
    cells = {row.split("`")[1]: row.replace("\\|", "|") for row in rows}
    for name, loss in LOSSES.items():
        assert f"`{loss.formula}`" in cells[name]
        assert f"[{loss.citation}](https://arxiv.org/abs/{loss.arxiv})" in cells[name]
        assert f"| {loss.status} |" in cells[name]
        assert re.search(r"\| (\d[.\de+-]+|TRL has none)[^|]* \|$", cells[name])


def test_every_question_names_a_heading_that_its_notebook_has() -> None:
    text = README.read_text()
    table = text[text.index("| question | cell |") :].split("\n\n")[0]
    named = re.findall(r"`(\d\d_\w+)`, \"(.*?)\"", table)
    assert len(table.splitlines()) - 2 == 7 and len(named) >= 7
    for name, heading in named:
        notebook = nbformat.read(README.parent / "notebooks" / f"{name}.ipynb", as_version=4)
        words = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
        heads = re.findall(r"^#+ (.*)$", "\n".join(words), re.M)
        assert any(head.startswith(heading) for head in heads), (name, heading)
