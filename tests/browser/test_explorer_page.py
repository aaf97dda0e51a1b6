"""The slider of notebook 01 in a real JupyterLab."""

from __future__ import annotations

import nbformat
import pytest
from page import Page

pytestmark = pytest.mark.slow

SOURCE = """
from dpo_lab.data.reviews import score
from dpo_lab.models.loading import load_model
from dpo_lab.models.world import World
from dpo_lab.ui.explore import OptimumExplorer
world = World.of(load_model("micro"), ["the acting felt"], score)
explorer = OptimumExplorer(world, "the acting felt")
explorer
"""
CHECK = "print(max(explorer.figure.data[0].x))"
FIGURE = "document.querySelector('.js-plotly-plot')"


def test_the_optimum_follows_the_slider_while_one_drags(page: Page, lab_folder) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in (SOURCE, CHECK)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, lab_folder / "explore.ipynb")
    tab = page.page
    page.open("explore.ipynb")
    page.run_command("notebook:run-all-cells")
    tab.wait_for_selector(".js-plotly-plot .main-svg", timeout=90_000)
    page.idle()
    handle = tab.locator(".noUi-handle")
    handle.focus()
    for _ in range(12):
        handle.press("ArrowRight")
    tab.wait_for_function(f"() => {FIGURE}.layout.annotations[0].text.includes('β = 0.525')")
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
