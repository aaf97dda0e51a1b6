"""Trackers named on the workbench's page: refused in words, then reported to."""

from __future__ import annotations

import nbformat
import pytest
from page import Page

pytest.importorskip("tensorboard")
pytestmark = pytest.mark.slow


def test_a_tracker_is_named_on_the_page(page: Page, lab_folder, pictures) -> None:
    code = [
        "from dpo_lab import Workbench",
        "bench = Workbench(folder='reported', steps=40, limit=400); bench",
        "print([p.name for p in bench.run.folder.glob('runs/*/*')])",
    ]
    cells = [nbformat.v4.new_code_cell(text) for text in code[:2]]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, lab_folder / "trackers.ipynb")
    tab = page.page
    page.open("trackers.ipynb")
    page.run_command("notebook:run-all-cells")
    tab.wait_for_selector(".dpo-figure", timeout=90_000)
    tab.locator(".dpo-workbench >> text=Advanced").click()
    field = tab.locator(".dpo-report-to input")
    field.scroll_into_view_if_needed()
    field.fill("tensorbord")
    field.press("Enter")
    tab.wait_for_selector(".dpo-set-report-to .dpo-problem:has-text('unknown. Use')")
    pictures(page, "tracker_refused")
    field.fill("tensorboard")
    field.press("Enter")
    tab.wait_for_function(
        "() => !document.querySelector('.dpo-set-report-to .dpo-problem').innerText.trim()"
    )
    tab.click("button.dpo-train")
    page.wait_for_status("done", timeout=120_000)
    assert "events.out.tfevents" in page.execute(code[2])
    pictures(page, "trackers")
