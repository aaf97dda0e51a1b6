"""Draw the pictures of the README: widgets, a run's report, figures of notebooks and benchmarks.

Usage: python assets/scripts/make_pictures.py  (needs Debian's package `chromium`)
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from rich.console import Console

from dpo_lab import TrainConfig
from dpo_lab.cli.jobs import train_and_report

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "browser"))
from page import CHROMIUM, FLAGS, Page, browser_page, copy_notebooks, jupyterlab  # noqa: E402

PICTURES = ROOT / "assets" / "pictures"
SCALING = ROOT / "benchmarks" / "results" / "scaling.json"
STILL = ("--headless", *FLAGS, "--hide-scrollbars", "--virtual-time-budget=8000")

COLOURS = {
    "prompt": "#0072B2",
    "response": "#D55E00",
    "pairs": "#009E73",
    "vocabulary": "#CC79A7",
    "width": "#999999",
}


def main() -> None:
    """Take the pictures, one after the other."""
    if CHROMIUM is None:
        raise SystemExit("chromium is missing: apt-get install chromium fonts-dejavu-core")
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as scratch:
        widgets(Path(scratch) / "lab")
        run = Path(scratch) / "micro on reviews"
        config = TrainConfig(steps=300, beta=0.3)
        train_and_report(config, run, resume=False, changes={}, strategy="ddp", console=Console())
        photograph(run / "report.html", PICTURES / "report.png", 1280, 1760)
        page = Path(scratch) / "scaling.html"
        scaling_figure(json.loads(SCALING.read_text())).write_html(
            page, config={"staticPlot": True}
        )
        photograph(page, PICTURES / "scaling.png", 1000, 420)
    of_notebook("04_beta_and_kl.ipynb", "in six rounds", PICTURES / "frontier.png")
    of_notebook("05_loss_family.ipynb", "push_figure(names)", PICTURES / "losses.png")
    of_notebook("09_rlhf_beside_dpo.ipynb", "gap_figure(gaps)", PICTURES / "gap.png")


def widgets(home: Path) -> None:
    """Run notebooks in JupyterLab, and take the pictures of the widgets in them."""
    with jupyterlab(copy_notebooks(home)) as address:
        with browser_page(address, 1340, 2600) as page:
            run_all(page, "03_workbench.ipynb")
            page.page.wait_for_function(
                "() => document.querySelectorAll('.dpo-runs tbody tr').length === 4",
                timeout=120_000,
            )
            page.wait_for_status("done")
            take(page, ".dpo-workbench", PICTURES / "workbench.png")
        with browser_page(address, 1180, 1400) as page:
            run_all(page, "07_inside_a_run.ipynb")
            take(page, ".dpo-explorer", PICTURES / "pairs.png")
        with browser_page(address, 1180, 1400) as page:
            run_all(page, "06_your_preferences.ipynb")
            take(page, ".dpo-annotator >> nth=1", PICTURES / "preferences.png")


def run_all(page: Page, notebook: str) -> None:
    """Open a notebook and run all of its cells."""
    page.open(notebook)
    page.run_command("application:toggle-left-area")
    page.run_command("notebook:run-all-cells")
    page.idle()


def take(page: Page, selector: str, picture: Path) -> None:
    """Take the picture of a widget once nothing runs any more."""
    page.idle()
    widget = page.page.locator(selector)
    widget.scroll_into_view_if_needed(timeout=300_000)
    page.use_theme("JupyterLab Light")
    widget.scroll_into_view_if_needed()
    widget.screenshot(path=picture)


def of_notebook(name: str, words: str, picture: Path) -> None:
    """Take the picture that a notebook shows under the cell with these words."""
    notebook = json.loads((ROOT / "notebooks" / name).read_text())
    (cell,) = [c for c in notebook["cells"] if words in "".join(c["source"]) and c.get("outputs")]
    picture.write_bytes(base64.b64decode(cell["outputs"][0]["data"]["image/png"]))


def photograph(page: Path, picture: Path, width: int, height: int) -> None:
    """Take the picture of a page."""
    profile = page.parent / f"profile of {page.stem}"
    size = f"--window-size={width},{height}"
    command = [CHROMIUM, *STILL, size, f"--user-data-dir={profile}", f"--screenshot={picture}"]
    subprocess.run([*command, page.as_uri()], check=True, capture_output=True)


def scaling_figure(results: list[dict]) -> go.Figure:
    """Time and memory of a step against the factor by which one size grew."""
    titles = ("Time of a step, times the smallest", "Memory of the process, GB")
    figure = make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.1)
    factors = [1, 8]
    straight = {"color": "#7a7a7a", "width": 1, "dash": "dot"}
    figure.add_scatter(x=factors, y=factors, name="in proportion", line=straight, mode="lines")
    for axis, colour in COLOURS.items():
        points = [point for point in results if point["axis"] == axis]
        grown = [point["size"] / points[0]["size"] for point in points]
        name = f"{axis} from {points[0]['size']}"
        times = [point["seconds"] / points[0]["seconds"] for point in points]
        line = {"color": colour, "width": 2.5}
        figure.add_scatter(x=grown, y=times, name=name, line=line, row=1, col=1)
        memory = [point["gb"] for point in points]
        figure.add_scatter(x=grown, y=memory, showlegend=False, line=line, row=1, col=2)
    ticks = {"type": "log", "tickvals": [1, 2, 4, 8], "gridcolor": "#e4e4e4"}
    figure.update_xaxes(**ticks, ticktext=["1 x", "2 x", "4 x", "8 x"])
    figure.update_xaxes(title="one size, times the smallest; the others as they are")
    figure.update_yaxes(type="log", gridcolor="#e4e4e4")
    figure.update_yaxes(tickvals=[1, 2, 4, 8, 16, 32], row=1, col=1)
    figure.update_yaxes(tickvals=[0.1, 0.2, 0.4, 0.8, 1.6, 3.2], row=1, col=2)
    figure.update_layout(
        width=1000,
        height=420,
        template="plotly_white",
        legend={"orientation": "h", "y": -0.22, "x": 0},
        margin={"l": 50, "r": 20, "t": 40, "b": 20},
        font={"family": "DejaVu Sans, sans-serif", "size": 12},
    )
    return figure


if __name__ == "__main__":
    main()
