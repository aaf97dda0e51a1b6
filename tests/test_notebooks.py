"""What every notebook must keep to; that they run is checked by nbval (`make test`)."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
CHECKED = "# NBVAL_CHECK_OUTPUT"
PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"

every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def _code(path: Path) -> list:
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def test_they_are_found() -> None:
    assert {path.stem[:2] for path in NOTEBOOKS} >= {"00", "03", "08"}


@every
def test_imports_come_first_and_nowhere_else(path: Path) -> None:
    first, *others = _code(path)
    kinds = (ast.Import, ast.ImportFrom)
    assert all(isinstance(node, kinds) for node in ast.parse(first.source).body)
    for cell in others:
        assert not any(isinstance(node, kinds) for node in ast.walk(ast.parse(cell.source)))


@every
def test_the_lab_comes_by_one_import_from_its_front_door(path: Path) -> None:
    imports = [n for n in ast.parse(_code(path)[0].source).body if isinstance(n, ast.ImportFrom)]
    assert [n.module for n in imports if n.module.startswith("dpo_lab")] == ["dpo_lab"]


@every
def test_at_least_three_cells_are_compared_and_hold_what_they_are_compared_with(path) -> None:
    checked = [cell for cell in _code(path) if CHECKED in cell.source]
    assert len(checked) >= 3
    # nbval skips a cell without a count, and passes one without outputs on "no error" alone.
    assert all(cell.execution_count and cell.outputs for cell in checked)


@every
def test_no_cell_is_let_off_and_none_failed(path: Path) -> None:
    for cell in _code(path):
        assert cell.execution_count is not None
        assert not {"raises-exception", "nbval-skip"} & set(cell.metadata.get("tags", []))
        assert "NBVAL_SKIP" not in cell.source and "NBVAL_RAISES" not in cell.source
        assert all(output.output_type != "error" for output in cell.outputs)


@every
def test_figures_are_there_for_pages_without_javascript_and_no_widget_state(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert "widgets" not in notebook["metadata"]
    for cell in _code(path):
        for output in cell.outputs:
            data = output.get("data", {})
            assert WIDGET not in data
            assert ("image/png" in data) == (PLOTLY in data)


@every
def test_a_notebook_stays_small(path: Path) -> None:
    pictures = sum(
        len(output.get("data", {}).get("image/png", ""))
        for c in _code(path)
        for output in c.outputs
    )
    assert path.stat().st_size - pictures < 200_000 and pictures < 200_000


@every
def test_cells_are_short(path: Path) -> None:
    imports, *others = _code(path)
    assert len(imports.source.splitlines()) <= 22
    assert max(len(cell.source.splitlines()) for cell in others) <= 14


def test_an_error_in_a_training_thread_fails_its_cell(tmp_path: Path) -> None:
    sources = (
        "from dpo_lab.ui.workbench.workbench import Workbench\nbench = Workbench(folder=None)",
        "bench.train(steps=2).wait(120)",
        "bench.train(data='nowhere.jsonl').wait(120)",
    )
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    for count, cell in enumerate(cells, start=1):
        cell.execution_count = count
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "n.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "n.ipynb"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "2 passed" in result.stdout and "1 failed" in result.stdout
    assert "nowhere.jsonl" in result.stdout
