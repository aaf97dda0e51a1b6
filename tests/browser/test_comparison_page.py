"""The comparison in a real JupyterLab: a chat with both models, and blind choices by keyboard."""

from __future__ import annotations

import json

import nbformat
import pytest
from page import FAILED, TOO_LATE, Page

pytestmark = pytest.mark.slow

ATTACK = "<img src=x onerror='window.attacked = true'>"
OPEN = """
import torch
from dpo_lab import Comparison, load_model
models = [load_model("micro", device="cpu") for _ in range(2)]
with torch.no_grad():  # another taste: the second model hears every token a little differently
    for weight in models[1].model.parameters():
        weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
for model, name in zip(models, ("mine", "NAME")):
    model.use_template("{{ bos_token }}{{ messages | map(attribute='content') | join(' ') }}")
    model.name = name
prompts = ["the plot was", "the music was", "the acting felt", "the film was", "the story felt",
           "the cast was", "the script was", "the ending felt"]
comparison = Comparison(*models, prompts=prompts, folder="FOLDER", max_new_tokens=12)
comparison
"""
CHAT, QUESTION = ".dpo-chat", ".dpo-question"


def _open(page: Page, folder, name: str, other: str = "reference") -> None:
    source = OPEN.replace("FOLDER", name).replace("NAME", other)
    cells = [nbformat.v4.new_code_cell(source)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    book = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(book, folder / f"{name}.ipynb")
    page.open(f"{name}.ipynb")
    page.run_command("notebook:run-all-cells")
    page.page.wait_for_selector(f"{CHAT}[data-open='true']", timeout=240_000)
    page.idle()


def _answers(page: Page) -> list[str]:
    return page.page.locator(f"{CHAT} .dpo-chat-answer").all_inner_texts()


def _ask(page: Page, text: str) -> None:
    page.page.locator(f"{CHAT} textarea").click()
    page.page.keyboard.type(text)
    count = page.page.locator(".dpo-chat-you").count()
    page.page.keyboard.press("Enter")
    page.page.wait_for_function(
        "([root, count]) => document.querySelectorAll('.dpo-chat-you').length > count"
        " && document.querySelector(root).dataset.busy === 'false'",
        arg=[CHAT, count],
        timeout=60_000,
    )


def _tab(page: Page, title: str) -> None:
    page.page.locator(".dpo-compare .lm-TabBar-tab", has_text=title).click()


def _press(page: Page, key: str) -> None:
    before = page.page.get_attribute(QUESTION, "data-click")
    page.page.keyboard.press(key)
    page.page.wait_for_function(
        "([root, before]) => { const found = document.querySelector(root).dataset;"
        " return found.click !== before && found.asked === 'true' }",
        arg=[QUESTION, before],
    )


def test_chat_then_choose_blindly_then_see_the_result(page: Page, lab_folder, pictures) -> None:
    tab = page.page
    _open(page, lab_folder, "compared", f"reference {ATTACK}")
    cells = tab.locator(".jp-Cell").count()
    # Letters are commands of JupyterLab (b inserts a cell, x cuts one); here they are text.
    _ask(page, "the music was")
    assert all(_answers(page)) and len(_answers(page)) == 2
    tab.keyboard.type("bxm 00")
    tab.keyboard.press("Shift+Enter")  # a line, and the cell is not run again
    tab.keyboard.type(ATTACK)
    typed = tab.locator(f"{CHAT} textarea").input_value()
    assert typed == f"bxm 00\n{ATTACK}"
    tab.locator(f"{CHAT} textarea").fill("")
    _ask(page, f"the plot was {ATTACK}")
    assert len(_answers(page)) == 4
    assert tab.locator(".dpo-chat-you").all_inner_texts()[1] == f"the plot was {ATTACK}"
    # The second answer was given with the first turn before it.
    printed = page.execute(
        "print(comparison.models._chats[0].turns[0]['content'], len(comparison.models._chats))"
    )
    assert printed.split("\n")[0] == "the music was 2"
    assert tab.locator(".jp-Cell").count() == cells
    pictures(page, "compare_chat")

    _tab(page, "Which is better?")
    tab.wait_for_selector(f"{QUESTION}[data-asked='true']", timeout=60_000)
    tab.locator(QUESTION).focus()
    for key in "1 2 0 u 1 1".split():
        _press(page, key)
    said = tab.locator(f"{QUESTION} .dpo-said").first.inner_text()
    assert said.startswith("4 answered, 0 of them ties")
    blind = tab.locator(QUESTION).inner_text()
    assert "mine" not in blind and "reference" not in blind
    log = (lab_folder / "compared" / "judges" / "you" / "clicks.log").read_text().splitlines()
    assert [json.loads(line)["choice"] for line in log] == ["A", "B", "tie", "undo", "A", "A"]
    pictures(page, "compare_blind")

    _tab(page, "Result")
    hidden = tab.locator(".dpo-compare .note").filter(has_text="4 choices so far")
    hidden.wait_for()
    assert tab.locator(".dpo-bars").count() == 0
    tab.get_by_role("button", name="Show the result").click()
    tab.locator(".dpo-bars").wait_for()
    words = tab.locator(".dpo-words").inner_text()
    assert "mine wins" in words and "of 4 prompts" in words and ATTACK in words
    pictures(page, "compare_result")
    assert tab.evaluate("() => window.attacked === undefined")
    assert tab.locator(".dpo-compare img").count() == 0
    assert page.problems == []


def test_modules_that_are_too_late_for_anywidget_chat_all_the_same(page: Page, lab_folder) -> None:
    page.page.add_init_script(TOO_LATE)
    _open(page, lab_folder, "late")
    _ask(page, "the music was")
    assert len(_answers(page)) == 2 and all(_answers(page))
    assert any(FAILED in problem for problem in page.problems)  # they were too late indeed
