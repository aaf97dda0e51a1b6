"""How long a person waits: from a key on the beta slider to what it causes, in a real browser.

    python benchmarks/latency.py        (needs chromium)

Key presses are timed by the browser's clock and records by the kernel's, which are the same on one
machine. `retrained`: from the key to the last point of a new run of 300 steps of micro, as the
browser's figure holds it. `in mid-run`: from the key to the first record with the new beta.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "browser"))
from page import Page, browser_page, jupyterlab

REPEATS = 7
SOURCE = """
import time
from dpo_lab.training.background import BackgroundRun
from dpo_lab.ui.workbench.workbench import Workbench

keep, seen = BackgroundRun.on_step, {}
def note(run, record):
    seen.setdefault(f"{record.beta:.3g}", (time.time(), record.timing.get("seconds")))
    keep(run, record)
BackgroundRun.on_step = note
bench = Workbench(folder=None)
bench
"""


def main() -> None:
    """Press keys, and print what was waited for."""
    with tempfile.TemporaryDirectory() as home:
        root = Path(home) / "notebooks"
        root.mkdir()
        cells = [nbformat.v4.new_code_cell(source) for source in (SOURCE, "print(repr(seen))")]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
        nbformat.write(notebook, root / "latency.ipynb")
        with jupyterlab(root) as address, browser_page(address) as page:
            page.open("latency.ipynb")
            page.run_command("notebook:run-all-cells")
            page.page.wait_for_selector(".dpo-figure .main-svg", timeout=90_000)
            page.wait_for_status("idle")
            told("retrained", [retrained(page) for _ in range(REPEATS)])
            told("in mid-run", in_mid_run(page))


def told(what: str, seconds: list[float]) -> None:
    """Print median and worst."""
    middle, worst = statistics.median(seconds), max(seconds)
    print(f"{what:<12}median {middle:.2f} s, worst of {len(seconds)}: {worst:.2f} s")


def press(page: Page) -> tuple[str, float]:
    """Press a key on the slider; the new beta as it reads, and when it was pressed."""
    handle = page.page.locator(".dpo-beta .noUi-handle")
    handle.focus()
    pressed = time.time()
    handle.press("ArrowRight")
    return f"{float(page.page.locator('.dpo-beta .widget-readout').text_content()):.3g}", pressed


def retrained(page: Page) -> float:
    """Seconds from a key with nothing running to the last point of the new run."""
    last = "document.querySelector('.dpo-figure .js-plotly-plot').data"
    last += ".find(t => t.meta === 'loss')"
    before = page.page.evaluate(f"() => {last}.y.at(-1) ?? null")
    _, pressed = press(page)
    page.page.wait_for_function(
        f"before => {last}.x.at(-1) === 300 && {last}.y.at(-1) !== before", arg=before
    )
    took = time.time() - pressed
    page.wait_for_status("done")
    return took


def in_mid_run(page: Page) -> list[float]:
    """Seconds from each key in a long run to the first record with its beta."""
    steps = page.page.locator(".dpo-steps input")
    steps.fill("100000")
    steps.press("Enter")
    page.page.click("button.dpo-train")
    page.wait_for_status("training")
    keys = []
    for _ in range(REPEATS):
        keys.append(press(page))
        page.wait_for_status(f"beta {keys[-1][0]}")
    page.page.click("button.dpo-stop")
    page.wait_for_status("stopped")
    page.page.locator(".jp-Cell").last.click()
    page.run_command("notebook:run-cell")
    output = page.page.locator(".jp-Cell").nth(1).locator(".jp-OutputArea-output pre")
    output.wait_for()
    seen = eval(output.inner_text())  # the kernel's own repr of strings and numbers
    return [seen[beta][0] - pressed for beta, pressed in keys]


if __name__ == "__main__":
    main()
