"""The slider of notebook 01 in a real JupyterLab, also while a cell runs."""

from __future__ import annotations

import nbformat
import pytest
from page import Page

pytestmark = pytest.mark.slow

SOURCE = """
from dpo_lab.data.reviews import reward
from dpo_lab.models.loading import load_model
from dpo_lab.models.response_space import ResponseSpace
from dpo_lab.ui.explorers.optimum import OptimumExplorer
world = ResponseSpace.of(load_model("micro"), ["the acting felt"], reward)
explorer = OptimumExplorer(world, "the acting felt")
explorer
"""
CHECK = "print(max(explorer.figure.data[0].x))"
BUSY = """
import threading
moved = threading.Event()
explorer.beta.observe(lambda change: change.new > 0.5 and moved.set(), "value")
print("waits")
print("moved" if moved.wait(60) else "stayed")
"""
FIGURE = "document.querySelector('.js-plotly-plot')"


def _explore(page: Page, folder, *then: str) -> None:
    """Show the explorer, with cells after it."""
    cells = [nbformat.v4.new_code_cell(source) for source in (SOURCE, *then)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, folder / "explore.ipynb")
    page.open("explore.ipynb")
    page.run_command("notebook:run-all-cells")
    page.page.wait_for_selector(".js-plotly-plot .main-svg", timeout=90_000)


def _drag(page: Page) -> None:
    """Move beta by twelve arrow keys and wait for the figure."""
    handle = page.page.locator(".noUi-handle")
    handle.focus()
    for _ in range(12):
        handle.press("ArrowRight")
    page.page.wait_for_function(f"() => {FIGURE}.layout.annotations[0].text.includes('β = 0.525')")


def test_the_slider_works_while_a_cell_runs(page: Page, lab_folder) -> None:
    _explore(page, lab_folder, BUSY)
    said = page.page.locator(".jp-OutputArea-output pre").last
    said.filter(has_text="waits").wait_for()
    _drag(page)
    page.idle()
    assert said.inner_text().split() == ["waits", "moved"]
    assert page.problems == []


def test_the_optimum_follows_the_slider_while_one_drags(page: Page, lab_folder) -> None:
    _explore(page, lab_folder, CHECK)
    tab = page.page
    page.idle()
    _drag(page)
    page.idle()
    # What the page draws is what the kernel computed for that beta.
    tab.locator(".jp-Cell").last.click()
    page.run_command("notebook:run-cell")
    drawn = tab.evaluate(f"() => Math.max(...{FIGURE}.data[0].x)")
    tab.wait_for_function(
        "drawn => Math.abs(parseFloat([...document.querySelectorAll('.jp-OutputArea-output pre')]"
        ".at(-1)?.innerText) - drawn) < 1e-6",
        arg=drawn,
    )
    assert page.problems == []
