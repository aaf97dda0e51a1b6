"""The token inspector in a real JupyterLab: by keyboard, in both themes, with hostile text."""

from __future__ import annotations

import nbformat
import pytest
from page import Page

pytestmark = pytest.mark.slow

ATTACK = "<img src=x onerror='window.attacked = true'>"
SOURCE = f"""
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from dpo_lab.data.preferences import preferences_from_rows
from dpo_lab.ui.explorers.token_inspector import TokenInspector
attack = {ATTACK!r}
words = ["<end>", "good", "bad", "was", *(str(i) for i in range(9)), attack, "<unk>"]
backend = Tokenizer(models.WordLevel({{word: i for i, word in enumerate(words)}}, "<unk>"))
backend.pre_tokenizer = pre_tokenizers.CharDelimiterSplit("|")
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
rows = [dict(prompt=f"was|{{i}}|{{attack}}", chosen=f"good|{{attack}}", rejected="bad|1|2")
        for i in range(9)]
inspector = TokenInspector(preferences_from_rows(rows), tokenizer)
inspector
"""
CHECK = "print('kernel at', inspector.row, inspector.max_length)"
TOKENS = "[...document.querySelectorAll('.dpo-inspector bdi')].map(token => token.innerText)"

# Ratio of contrast of every text in the view to what lies behind it, as WCAG 2 defines it.
CONTRAST = """() => {
  const parts = colour => { const p = colour.match(/[\\d.]+/g).map(Number);
                            return p.length < 4 ? [...p, 1] : p };
  const over = (top, under) => under.map((u, i) => i < 3 ? top[i] * top[3] + u * (1 - top[3]) : 1);
  const light = colour => colour.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => { const chain = [];
    for (let n = node; n; n = n.parentElement) chain.unshift(getComputedStyle(n));
    return chain.reduce((under, s) => over(parts(s.backgroundColor), under), [255, 255, 255, 1]) };
  const opacity = node => node ? getComputedStyle(node).opacity * opacity(node.parentElement) : 1;
  const texts = [...document.querySelectorAll('.dpo-inspector .dpo-tokens *')].filter(node =>
    [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim()));
  return texts.map(node => { const back = behind(node);
    const ink = parts(getComputedStyle(node).color); ink[3] *= opacity(node);
    const both = [light(over(ink, back)), light(back)].sort((a, b) => b - a);
    return (both[0] + 0.05) / (both[1] + 0.05) });
}"""


def _wait_for_token(page: Page, place: int, text: str) -> None:
    page.page.wait_for_function(f"text => {TOKENS}[{place}] === text", arg=text, timeout=30_000)


def test_rows_by_keyboard_in_both_themes_and_no_text_runs(page: Page, lab_folder) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in (SOURCE, CHECK)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, lab_folder / "inspect.ipynb")
    tab = page.page
    page.open("inspect.ipynb")
    page.run_command("notebook:run-all-cells")
    tab.wait_for_selector(".dpo-inspector .dpo-tokens", timeout=90_000)
    page.idle()
    assert tab.evaluate(TOKENS)[:3] == ["was", "0", ATTACK.replace(" ", "␣")]

    # Arrow keys on the slider; then on with Tab and Enter: Previous, Next.
    handle = tab.locator(".dpo-row-slider .noUi-handle")
    handle.focus()
    handle.press("ArrowRight")
    _wait_for_token(page, 1, "1")
    handle.press("ArrowRight")
    _wait_for_token(page, 1, "2")
    tab.locator(".dpo-inspector button", has_text="Next ›").focus()
    tab.keyboard.press("Enter")
    _wait_for_token(page, 1, "3")
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("Enter")
    _wait_for_token(page, 1, "2")

    # A limit of 5: the prompt keeps two tokens, and the longer response loses its end.
    field = tab.locator(".dpo-max-length input")
    field.fill("5")
    field.press("Enter")
    tab.wait_for_selector(".dpo-inspector p:has-text('rejected response was cut')")
    box = tab.locator(".dpo-inspector input[type=checkbox]")
    box.focus()
    tab.keyboard.press("Space")
    tab.wait_for_selector(".dpo-inspector td:has-text('cut: the prompt was too long')")
    for theme in ("Dark", "Light"):
        page.use_theme(f"JupyterLab {theme}")
        assert min(tab.evaluate(CONTRAST)) > 4.5, theme

    tab.locator(".jp-Cell").last.click()
    page.run_command("notebook:run-cell")
    tab.wait_for_selector(".jp-OutputArea-output:has-text('kernel at 3 5')")
    assert tab.evaluate("() => window.attacked === undefined")
    assert tab.locator(".dpo-inspector img").count() == 0
    assert page.problems == []
