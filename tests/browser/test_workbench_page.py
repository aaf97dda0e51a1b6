"""The workbench in a real JupyterLab, driven as a person drives it."""

from __future__ import annotations

import nbformat
import pytest
from page import Page

pytestmark = pytest.mark.slow


def _run_all(page: Page, notebook: str) -> None:
    page.open(notebook)
    page.run_command("notebook:run-all-cells")
    page.page.wait_for_selector(".dpo-figure .main-svg", timeout=90_000)


def _set_text(page: Page, css: str, text: str) -> None:
    field = page.page.locator(f"{css} input")
    field.fill(text)
    field.press("Enter")


def test_a_person_tunes_trains_pauses_stops_and_reloads(page: Page, pictures) -> None:
    tab = page.page
    _run_all(page, "03_workbench.ipynb")
    page.wait_for_status("done", timeout=120_000)
    tab.wait_for_function(
        "() => document.querySelectorAll('.dpo-runs tbody tr').length >= 4", timeout=180_000
    )
    page.idle()
    pictures(page, "workbench")

    # Letting go of beta trains again: 301 points, and the former runs stay behind.
    handle = tab.locator(".dpo-beta .noUi-handle")
    handle.focus()
    handle.press("ArrowLeft")
    page.wait_for_status("beta 0.891")
    page.wait_for_status("done")
    assert page.wait_for_points("loss", more_than=299) == 300

    # A long run, beta moved in mid-run: the kernel's own words say when it took effect.
    _set_text(page, ".dpo-steps", "100000")
    tab.click("button.dpo-train")
    tab.wait_for_function("() => !document.querySelector('button.dpo-stop').disabled")
    page.wait_for_status("training")
    before = page.wait_for_points("loss", more_than=5)
    handle.press("ArrowRight")
    page.wait_for_status("beta 1")
    page.wait_for_points("loss", more_than=before)
    tab.wait_for_selector(".dpo-figure .annotation-text:has-text('β 1')")

    tab.click("button.dpo-pause")
    paused = page.wait_for_status("paused")
    tab.click("button.dpo-step")
    page.wait_for_status(f"step {_step(paused) + 1}/")
    tab.click("button.dpo-pause")
    page.wait_for_status("training")
    page.wait_for_points("loss", more_than=_step(paused) + 1)
    tab.click("button.dpo-stop")
    stopped = page.wait_for_status("stopped")

    # What is on the page comes back after a reload, with the kernel's figure in it.
    points = page.wait_for_points("loss", more_than=min(_step(stopped), 1000) - 1)
    page.save()
    tab.goto(f"{page.address}/lab/tree/03_workbench.ipynb")
    tab.wait_for_selector(".dpo-figure .main-svg", timeout=90_000)
    page.wait_for_status(stopped)
    assert page.wait_for_points("loss", more_than=points - 1) == points
    assert page.problems == []


def _step(status: str) -> int:
    return int(status.split("step ")[1].split("/")[0])


THREE_RUNS = """
from dpo_lab.ui.workbench.workbench import Workbench
bench = Workbench(folder=None, steps=60)
for beta in (0.1, 0.5, 2.0):
    bench.train(beta=beta).wait(60)
bench
"""
ROWS = ".dpo-runs tbody tr"


def test_runs_are_ticked_by_mouse_and_keyboard(page: Page, lab_folder) -> None:
    tab = page.page
    _write(lab_folder / "three.ipynb", THREE_RUNS)
    _run_all(page, "three.ipynb")
    page.wait_for_status("done")
    tab.locator(f"{ROWS} >> nth=2").wait_for()
    names = [name.strip() for name in tab.locator(f"{ROWS} td:first-child").all_inner_texts()]
    assert names == ["run 3", "run 2", "run 1"]
    tab.locator(f"{ROWS} input").nth(1).click()
    _wait_for_ticks(tab, [True, False, True])
    assert page.execute("print(bench.runs.ticked)").strip() == "['run 1', 'run 3']"
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Space")
    _wait_for_ticks(tab, [True, False, False])
    assert page.execute("print(bench.runs.ticked)").strip() == "['run 3']"
    # A run that ends meanwhile stands on top; the keyboard stays at the row that it was at.
    page.execute("bench.train(steps=2).wait(60)")
    _wait_for_ticks(tab, [True, True, False, False])
    assert tab.evaluate("() => document.activeElement.innerText").startswith("run 1")
    tab.keyboard.press("Space")
    _wait_for_ticks(tab, [True, True, False, True])
    assert page.problems == []


def _wait_for_ticks(tab, wanted: list[bool]) -> None:
    tab.wait_for_function(
        "([rows, wanted]) => [...document.querySelectorAll(rows)].map(row =>"
        " row.ariaSelected === 'true' && row.querySelector('input').checked).join() === wanted",
        arg=[ROWS, ",".join(str(one).lower() for one in wanted)],
    )


def _write(path, source: str) -> None:
    cells = [nbformat.v4.new_code_cell(source)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


def test_no_text_of_a_data_set_runs_on_the_page(page: Page, lab_folder) -> None:
    attack = "<img src=x onerror='window.attacked = true'>"
    source = f"""
from dpo_lab.ui.workbench.workbench import Workbench
rows = [dict(prompt=f"the plot was {{i}} {attack}", chosen="great {attack}", rejected="awful")
        for i in range(12)]
bench = Workbench(model="micro", data=rows, folder=None, steps=2, batch_pairs=4, held_out=0.5)
bench.train()
bench
"""
    _write(lab_folder / "attack.ipynb", source)
    _run_all(page, "attack.ipynb")
    page.wait_for_status("done")
    page.page.locator(".dpo-samples td").filter(has_text=attack).first.wait_for()
    assert page.page.evaluate("() => window.attacked === undefined")
    assert page.page.locator(".dpo-workbench img").count() == 0
    assert page.problems == []


TWO_METHODS = """
from dpo_lab.ui.workbench.workbench import Workbench
bench = Workbench(folder=None, steps=60, eval_every=10)
bench.train().wait(60)
bench
"""


def test_the_method_is_a_menu_and_both_paths_stand_on_one_frontier(
    page: Page, lab_folder, pictures
) -> None:
    tab = page.page
    _write(lab_folder / "methods.ipynb", TWO_METHODS)
    _run_all(page, "methods.ipynb")
    page.wait_for_status("done")
    tab.select_option(".dpo-method select", "rloo")
    tab.click("button.dpo-train")
    page.wait_for_status("done", timeout=120_000)
    page.wait_for_points("on_policy/reward", more_than=59)
    assert page.wait_for_points("path", more_than=3) and page.wait_for_points(
        "frontier", more_than=5
    )
    assert page.wait_for_points("former 0 path", more_than=3)
    tab.locator(".dpo-figure .textpoint", has_text="DPO β 0.3").first.wait_for()
    assert tab.locator(".dpo-figure .annotation-text", has_text="Reward of its answers").count()
    assert not tab.locator(".dpo-figure .annotation-text", has_text="no values yet").count()
    pictures(page, "methods")
    # A loss of pairs that the method has not is refused where it was chosen.
    tab.select_option(".dpo-loss select", "ipo")
    tab.locator(".dpo-set-loss .dpo-problem", has_text="method rloo trains on rewards").wait_for()
    assert page.execute("print(bench.state.config.method, bench.state.config.loss)").split() == [
        "rloo", "sigmoid"
    ]  # fmt: skip
    assert page.problems == []
