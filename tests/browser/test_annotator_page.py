"""The annotator in a real JupyterLab: by keyboard alone, through the death of its kernel."""

from __future__ import annotations

import os
import signal

import nbformat
import pytest
from page import FAILED, TOO_LATE, Page

from dpo_lab import load_preferences

pytestmark = pytest.mark.slow

OPEN = """
import os
from dpo_lab.ui.annotator.annotator import Annotator
annotator = Annotator(["the acting felt", "the plot was", "the music was"], session="mine")
annotator
"""
PID = "print('pid', os.getpid())"
KEYS = "1 2 0 s 1 u 2 1 u u 1 2 0 0 1 2 s 1"
"""Three are taken back: what is left are seven preferences, three ties and two skips."""
ROOT = ".dpo-question"


def _notebook(folder, name: str, *sources: str) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / name)


def _run_all(page: Page) -> None:
    page.run_command("notebook:run-all-cells")
    page.page.wait_for_selector(f"{ROOT}[data-asked='true']", timeout=240_000)
    page.idle()


def _press(page: Page, key: str) -> None:
    """A key, and the next question."""
    before = page.page.get_attribute(ROOT, "data-click")
    page.page.keyboard.press(key)
    page.page.wait_for_function(
        "([root, before]) => { const found = document.querySelector(root).dataset;"
        " return found.click !== before && found.asked === 'true' }",
        arg=[ROOT, before],
    )


def _progress(page: Page) -> str:
    return page.page.locator(f"{ROOT} .dpo-said").first.inner_text()


def test_ten_pairs_by_keyboard_outlive_the_kernel(page: Page, lab_folder, pictures) -> None:
    tab = page.page
    _notebook(lab_folder, "annotate.ipynb", OPEN, PID)
    page.open("annotate.ipynb")
    _run_all(page)
    cells = tab.locator(".jp-Cell").count()
    # JupyterLab is in command mode, where 1 makes a heading, 0 0 restarts the kernel, b inserts a
    # cell and x cuts one.
    tab.locator(ROOT).focus()
    tab.wait_for_selector(".jp-Notebook.jp-mod-commandMode")
    for key in KEYS.split():
        _press(page, key)
    for key in "bxm":
        tab.keyboard.press(key)
    assert _progress(page).startswith("10 answered, 3 of them ties · 2 skipped")
    clicks = (lab_folder / "mine" / "clicks.log").read_text().splitlines()
    assert len(clicks) == len(KEYS.split())
    assert tab.locator(".jp-Cell").count() == cells and tab.locator(".jp-MarkdownCell").count() == 0
    asked = _question(page)
    pictures(page, "annotator")

    pid = int(tab.locator(".jp-OutputArea-output pre").last.inner_text().split()[1])
    os.kill(pid, signal.SIGKILL)
    tab.locator(".jp-Dialog button").first.click(timeout=60_000)  # Lab tells that it died
    page.idle()
    tab.locator(ROOT).focus()
    tab.keyboard.press("1")  # into the void: the page of a dead kernel says so
    tab.locator(f"{ROOT} .dpo-trouble").filter(has_text="does not answer").wait_for()
    _run_all(page)
    assert int(tab.locator(".jp-OutputArea-output pre").last.inner_text().split()[1]) != pid
    assert _progress(page).startswith("10 answered") and _question(page) == asked
    assert len(load_preferences(lab_folder / "mine")) == 7
    assert page.problems == []


def test_a_module_that_is_too_late_for_anywidget_asks_all_the_same(page: Page, lab_folder) -> None:
    page.page.add_init_script(TOO_LATE)
    _notebook(lab_folder, "late.ipynb", OPEN.replace("mine", "late"))
    page.open("late.ipynb")
    _run_all(page)
    page.page.locator(ROOT).focus()
    for key in "120":
        _press(page, key)
    assert _progress(page).startswith("3 answered, 1 of them ties")
    assert any(FAILED in problem for problem in page.problems)  # it was too late indeed


ATTACK = "<img src=x onerror='window.attacked = true'>"
HOSTILE = f"""
from dpo_lab.ui.annotator.annotator import Annotator
prompts = ["the plot was", "the music was", "the acting felt {ATTACK}"]
annotator = Annotator(prompts, session="hostile {ATTACK}".replace("/", ""))
annotator
"""


def test_by_mouse_and_screen_reader_then_trained_with_no_text_that_runs(
    page: Page, lab_folder, pictures
) -> None:
    tab = page.page
    _notebook(lab_folder, "hostile.ipynb", HOSTILE)
    page.open("hostile.ipynb")
    _run_all(page)
    left, right = (tab.get_by_role("button", name=name) for name in ("A (1)", "B (2)"))
    left.dblclick()  # the second click was not meant for the next question
    tab.wait_for_function(f"() => document.querySelector('{ROOT}').dataset.click === '1'")
    left.dispatch_event("click", {"detail": 2})  # nor if it comes after that has appeared
    tab.wait_for_timeout(500)
    assert _progress(page).startswith("1 answered")
    for button in (right, left, right, left):
        before = tab.get_attribute(ROOT, "data-click")
        button.click()
        tab.wait_for_function(f"() => document.querySelector('{ROOT}').dataset.click > {before}")
    assert _progress(page).startswith("5 answered")
    left.focus()
    tab.keyboard.press("Enter")
    tab.wait_for_function(f"() => document.querySelector('{ROOT}').dataset.click === '6'")
    assert left.evaluate("button => button === document.activeElement")
    spoken = tab.get_by_role("status").filter(has_text="A is noted.")
    assert all(words in spoken.inner_text() for words in _question(page))

    # With a modifier the keys are JupyterLab's own.
    tab.keyboard.press("Control+s")
    tab.wait_for_function("() => !window.jupyterapp.shell.currentWidget.context.model.dirty")
    _press(page, "u")
    _press(page, "1")

    tab.click("button.dpo-train")
    page.wait_for_status("done")
    tab.locator(".dpo-samples td").filter(has_text=ATTACK).first.wait_for()
    tab.locator(".dpo-place").filter(has_text="<img").wait_for()
    pictures(page, "annotator_trained")
    assert tab.evaluate("() => window.attacked === undefined")
    assert tab.locator(".dpo-annotator img").count() == 0
    assert page.problems == []


def test_two_rounds_by_keyboard(page: Page, lab_folder, pictures) -> None:
    tab = page.page
    scored = OPEN.replace("session=", "reward_fn=reward, session=").replace("mine", "rounds")
    scored = "from dpo_lab.data.reviews import reward" + scored
    _notebook(lab_folder, "rounds.ipynb", scored)
    page.open("rounds.ipynb")
    _run_all(page)
    for _ in range(2):
        tab.locator(ROOT).focus()
        for key in "1 2 1 0 2 1 1 2 2 1".split():
            _press(page, key)
        while not tab.evaluate("() => document.activeElement.classList.contains('dpo-train')"):
            tab.keyboard.press("Tab")
        tab.keyboard.press("Enter")
        page.wait_for_status("training")
        page.wait_for_status("done", timeout=120_000)
        tab.wait_for_selector(f"{ROOT}[data-asked='true']", timeout=60_000)
    tab.locator(ROOT).focus()
    for key in "121":  # the first is that of the question that stayed on the page
        _press(page, key)
    tab.locator(".dpo-rounds td", has_text="the policy of round 2").wait_for()
    assert tab.locator(".dpo-rounds tbody tr").count() == 3
    answered = [int(text) for text in tab.locator(".dpo-rounds td:nth-child(3)").all_inner_texts()]
    assert sum(answered) == 23 and 1 <= answered[-1] <= 2
    pictures(page, "rounds")
    assert page.problems == []


def _question(page: Page) -> list[str]:
    return [page.page.locator(f"{ROOT} {css}").inner_text() for css in
            (".dpo-prompt", ".dpo-answer-a", ".dpo-answer-b")]  # fmt: skip
