"""Run notebooks from a clean kernel and keep what they show: pictures as plotly and as PNG.

Usage: python assets/scripts/make_notebooks.py [notebooks/03_workbench.ipynb ...]  (needs chromium)
"""

import base64
import io
import os
import sys
import time
from pathlib import Path

import nbformat
import plotly.io
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PLOTLY = "application/vnd.plotly.v1+json"
WIDTH = 1160


def main() -> None:
    """Run the notebooks that are named, or all."""
    os.environ |= {"PLOTLY_RENDERER": "plotly_mimetype", "HF_HUB_OFFLINE": "1"}
    for name in sys.argv[1:] or sorted(NOTEBOOKS.glob("*.ipynb")):
        started = time.perf_counter()
        refresh(Path(name))
        size = Path(name).stat().st_size
        print(f"{name}: {time.perf_counter() - started:.0f} s, {size / 1000:.0f} kB", flush=True)


def refresh(path: Path) -> None:
    """Run one notebook in place, and drop what only its kernel could use."""
    notebook = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=3600, resources=folder, store_widget_state=False).execute()
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop("application/vnd.jupyter.widget-view+json", None)
            if PLOTLY in data:
                data["image/png"] = picture_of(data[PLOTLY])
    nbformat.write(notebook, path)


def picture_of(figure: dict) -> str:
    """A figure for pages that run no JavaScript: PNG in base64.

    Lines get 64 colours, to keep it small; areas of changing colour, which would show bands, 256
    of their own on a white ground.
    """
    image, file = drawn(figure), io.BytesIO()
    if {trace["type"] for trace in figure["data"]} & {"heatmap", "contour"}:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    else:
        image = image.quantize(64, method=Image.Quantize.FASTOCTREE)
    image.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def drawn(figure: dict) -> Image.Image:
    """A figure as plotly draws it."""
    figure = {name: figure[name] for name in ("data", "layout")}
    height = figure["layout"].get("height")
    return Image.open(io.BytesIO(plotly.io.to_image(figure, "png", width=WIDTH, height=height)))


if __name__ == "__main__":
    main()
