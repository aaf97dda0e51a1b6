"""Whether the live figure is whole on a slow page beside a busy kernel.

    python benchmarks/throttled.py --openings 20 --reloads 10        (needs chromium)

The browser's processor is slowed down and other processes keep the cores busy. An opening is a
fresh browser on a fresh kernel that opens a notebook and trains; a reload comes in mid-run, which
is stopped afterwards. Each time the browser's figure is compared with the kernel's, trace by trace,
and every line must be drawn.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import tyro

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "browser"))
from page import Page, browser_page, jupyterlab

NOTEBOOK = "throttled.ipynb"
RELOADS = 3
"""Most times that a page is reloaded for JupyterLab to find the kernel's widgets."""
SOURCE = """
from dpo_lab.ui.workbench.workbench import Workbench
bench = Workbench(folder=None, steps={steps})
bench.train()
bench
"""
ENDS = """
import json
def end(x, y):
    return [len(x), float(x[-1]), float(y[-1])] if x is not None and len(x) else [0]
print(json.dumps([end(trace.x, trace.y) for trace in bench.figure.data]))
"""
MISSING = """ends => {
  const found = document.querySelector('.dpo-figure .js-plotly-plot, .dpo-figure.js-plotly-plot');
  if (!found?.data) return 'no figure';
  for (const [index, [points, x, y]] of ends.entries()) {
    const trace = found.data[index], full = found._fullData?.[index];
    const near = (a, b) => Math.abs(a - b) <= 1e-5 * Math.max(1, Math.abs(b));
    if ((trace?.x?.length ?? 0) !== points) return `trace ${index}: ${trace?.x?.length} points`;
    if (points && !(near(trace.x[points - 1], x) && near(trace.y[points - 1], y)))
      return `trace ${index}: ends at ${trace.x[points - 1]}, ${trace.y[points - 1]}`;
    if (points < 2 || full?.visible !== true || !full.mode?.includes('lines')) continue;
    if (!(full.line.width > 0)) continue;
    const line = found.querySelector(`.scatterlayer .trace${full.uid} path.js-line`);
    if (!line?.getAttribute('d')) return `trace ${index}: not drawn`;
  }
  return '';
}"""


@dataclass(frozen=True)
class Throttled:
    """Open and reload a workbench on a slow page."""

    openings: int = 20
    """Fresh browsers on fresh kernels."""
    reloads: int = 10
    """Reloads in mid-run."""
    slowdown: float = 6.0
    """By how much the browser's processor is slowed down."""
    busy: int = 2
    """Processes that keep the cores busy."""
    patience: float = 60.0
    """Seconds that a figure has to be whole, once the run has ended."""


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Processes that do nothing, as fast as they can."""
    command = [sys.executable, "-c", "while True: pass"]
    started = [subprocess.Popen(command) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


@contextlib.contextmanager
def slow_page(address: str, slowdown: float) -> Iterator[Page]:
    """A fresh browser whose processor is slowed down."""
    with browser_page(address) as page:
        page.page.set_default_timeout(300_000)
        session = page.page.context.new_cdp_session(page.page)
        session.send("Emulation.setCPUThrottlingRate", {"rate": slowdown})
        yield page


def write_notebook(folder: Path, steps: int) -> None:
    """A notebook of one cell, which opens a workbench and trains."""
    cells = [nbformat.v4.new_code_cell(SOURCE.format(steps=steps))]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / NOTEBOOK)


def opening(address: str, folder: Path, options: Throttled) -> str:
    """What a page lacks that was opened and trained on; nothing if its figure is whole."""
    write_notebook(folder, 300)
    with slow_page(address, options.slowdown) as page:
        page.open(NOTEBOOK)
        page.run_command("notebook:run-all-cells")
        page.wait_for_status("done", timeout=300_000)
        return missing(page, options.patience)


def reloads(address: str, folder: Path, options: Throttled) -> Iterator[str]:
    """The same of a page after each reload in mid-run."""
    write_notebook(folder, 100_000)
    with slow_page(address, options.slowdown) as page:
        page.open(NOTEBOOK)
        page.run_command("notebook:run-all-cells")
        for _ in range(options.reloads):
            page.wait_for_status("training", timeout=300_000)
            page.save()
            reload(page)
            page.page.click("button.dpo-stop")
            page.wait_for_status("stopped", timeout=300_000)
            yield missing(page, options.patience)
            page.page.click("button.dpo-train")


def reload(page: Page) -> None:
    """Reload, and once more where JupyterLab itself gave up on the kernel's widgets, which is said.

    It then shows no widget at all, and says so on the page: "Error displaying widget".
    """
    for _ in range(RELOADS):
        page.page.goto(f"{page.address}/lab/tree/{NOTEBOOK}")
        found = page.page.locator(".dpo-status, .jp-OutputArea-output:has-text('model not found')")
        found.first.wait_for()
        if page.page.locator(".dpo-status").count():
            page.wait_for_status("training", timeout=300_000)
            return
        print("JupyterLab did not find the kernel's widgets: reloaded", flush=True)
    raise RuntimeError(f"JupyterLab did not find the kernel's widgets in {RELOADS} reloads.")


def missing(page: Page, patience: float) -> str:
    """What the page's figure lacks of the kernel's when patience is at its end."""
    ends, until = json.loads(page.execute(ENDS)), time.monotonic() + patience
    assert any(points for points, *_ in ends)
    while (lacks := page.page.evaluate(MISSING, ends)) and time.monotonic() < until:
        page.page.wait_for_timeout(500)
    return lacks


def main() -> None:
    """Open and reload as often as asked, and print what was missing."""
    options = tyro.cli(Throttled, description=__doc__)
    failed = 0
    with tempfile.TemporaryDirectory() as home, busy(options.busy):
        folder = Path(home) / "notebooks"
        folder.mkdir()
        with jupyterlab(folder) as address:
            for number in range(1, options.openings + 1):
                lacks = opening(address, folder, options)
                failed += bool(lacks)
                print(f"opening {number}: {lacks or 'whole'}", flush=True)
            for number, lacks in enumerate(reloads(address, folder, options), 1):
                failed += bool(lacks)
                print(f"reload {number}: {lacks or 'whole'}", flush=True)
    print(f"{failed} of {options.openings + options.reloads} not whole")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
