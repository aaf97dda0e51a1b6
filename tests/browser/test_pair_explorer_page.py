"""The pair explorer of notebook 07 in a real JupyterLab: mouse, keyboard, hostile text."""

from __future__ import annotations

import nbformat
import pytest
from page import FAILED, TOO_LATE, Page

pytestmark = pytest.mark.slow

SOURCE = """
from dataclasses import replace
from dpo_lab.data.preferences import load_preferences
from dpo_lab import TrainConfig, prepare, train
from dpo_lab.analysis.pair_margins import score_pairs
from dpo_lab.ui.explorers.pair_explorer import PairExplorer
pairs = load_preferences("reviews", limit=200)
hostile = "<img src=x onerror=document.body.dataset.ran=1>"
first = replace(pairs[0], prompt=hostile, chosen=f"{hostile} awful", rejected="superb")
pairs = replace(pairs, pairs=(first, *pairs.pairs[1:]))
config = TrainConfig(steps=40, eval_every=0, eval_pairs=0, held_out=0.0)
job = prepare(config, data=pairs, keep_reference=True)
for _ in train(job):
    pass
explorer = PairExplorer(job, score_pairs(job, pairs), shown=200)
explorer
"""
CHECK = "print(explorer.selected, explorer.sort)"
TABLE = ".dpo-explorer .dpo-table"
ROWS = f"{TABLE} tbody tr"
HEADING = ".dpo-explorer .credit h4"


def _open(page: Page, lab_folder) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in (SOURCE, CHECK)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, lab_folder / "pairs.ipynb")
    page.open("pairs.ipynb")
    page.run_command("notebook:run-all-cells")
    page.page.wait_for_selector(ROWS, timeout=90_000)
    page.idle()
    assert page.page.locator(ROWS).count() == 200


def test_a_table_whose_module_is_too_late_for_anywidget_is_sorted_all_the_same(
    page: Page, lab_folder
) -> None:
    page.page.add_init_script(TOO_LATE)
    _open(page, lab_folder)
    page.page.locator(".dpo-explorer select").select_option(index=2)
    page.page.locator(f"{ROWS}[aria-selected='true']").first.wait_for()
    page.idle()
    first = page.execute("print('\\n'.join(explorer.table.rows[0]))").strip().splitlines()
    page.page.locator(ROWS).first.filter(has_text=first[4]).wait_for()
    assert page.page.locator(f"{ROWS} >> nth=0 >> td").all_inner_texts()[1:8] == first[1:8]
    assert any(FAILED in problem for problem in page.problems)  # it was too late indeed


def test_pairs_are_picked_by_mouse_and_keyboard_and_no_text_runs(
    page: Page, lab_folder, pictures
) -> None:
    tab = page.page
    _open(page, lab_folder)
    pictures(page, "pairs")
    # The mouse: the third row, and the credit below follows.
    before = tab.locator(HEADING).first.inner_text()
    tab.locator(ROWS).nth(2).click()
    tab.wait_for_function(
        "([selector, before]) => document.querySelector(selector).innerText !== before",
        arg=[HEADING, before],
    )
    assert tab.locator(ROWS).nth(2).get_attribute("aria-selected") == "true"
    # The keyboard: down, up to the end, and what is picked stays in view.
    tab.keyboard.press("ArrowDown")
    _picked(tab, 3)
    tab.keyboard.press("End")
    _picked(tab, 199)
    inside = "row => { const r = row.getBoundingClientRect(), f = row.closest('.dpo-table')"
    inside += ".getBoundingClientRect(); return r.top >= f.top && r.bottom <= f.bottom + 1 }"
    assert tab.locator(ROWS).nth(199).evaluate(inside)
    # The kernel's words: a pick that waits behind another would overtake the new order.
    tab.locator(".dpo-explorer", has_text="pair 200 of 200 shown").wait_for()
    tab.locator(".dpo-explorer select").select_option(index=2)
    tab.wait_for_function(
        "rows => document.querySelector(rows).ariaSelected === 'true'", arg=ROWS, timeout=20_000
    )
    # Every text as text: the hostile pair is in the table, and nothing of it ran.
    page.idle()
    assert "onerror" in tab.locator(TABLE).inner_text()
    tab.locator(ROWS, has_text="onerror").first.click()
    tab.wait_for_function(
        "() => document.querySelector('.dpo-explorer .credit').innerText.includes('unk')"
        " || document.querySelector('.dpo-explorer').innerText.includes('Prompt: <img')"
    )
    assert tab.evaluate("() => document.body.dataset.ran") is None
    assert tab.locator(".dpo-explorer img").count() == 0
    page.idle()
    tab.locator(".jp-Cell").last.click()
    page.run_command("notebook:run-cell")
    tab.wait_for_function(
        "() => [...document.querySelectorAll('.jp-OutputArea-output pre')].at(-1)?.innerText"
        ".endsWith('change\\n')"
    )
    assert page.problems == []


def _picked(tab, row: int) -> None:
    tab.wait_for_function(
        "([rows, row]) => document.querySelectorAll(rows)[row].ariaSelected === 'true'"
        " && document.activeElement === document.querySelectorAll(rows)[row]",
        arg=[ROWS, row],
    )
