"""A check of data as one web page that needs no network and runs no text of the data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

from plotly.offline import get_plotlyjs

from dpo_lab.data.preflight.result import DataCheck
from dpo_lab.data.preflight.shortcuts import NOTABLE, SERIOUS
from dpo_lab.training.files import write_bytes
from dpo_lab.training.preflight import PreFlight
from dpo_lab.ui.figures.preflight import preflight_figure
from dpo_lab.ui.figures.style import CSS_COLOURS, PLOTLY_CONFIG
from dpo_lab.ui.html.page_policy import content_policy
from dpo_lab.ui.html.tables import render, table
from dpo_lab.ui.preflight.findings import findings_html, tiles


def write_page(path: Path, found: PreFlight) -> Path:
    """Write the page of a check, all of it or nothing.

    Args:
        path: The file to write; one that is there is replaced in one go.
        found: Result of the check.

    Returns:
        `path`.
    """
    own = files("dpo_lab.ui.preflight")
    report = files("dpo_lab.ui.report").joinpath("report.css").read_text(encoding="utf-8")
    looks = [own.joinpath(name).read_text(encoding="utf-8") for name in _LOOKS]
    scripts = [get_plotlyjs(), own.joinpath("check.js").read_text(encoding="utf-8")]
    page = render(
        "preflight/check.html.jinja",
        title=f"Data check of {found.data.source}",
        policy=content_policy(scripts),
        style=CSS_COLOURS + report + "".join(looks),
        model=found.config.model,
        tiles=tiles(found),
        findings=findings_html(found),
        notable=NOTABLE,
        serious=SERIOUS,
        scripts=_scripts(found.data),
        settings=table((), _rows(found), kind="values"),
        figure={
            "figure": json.loads(preflight_figure(found.data).to_json()),
            "config": PLOTLY_CONFIG,
        },
        scripts_of_page=scripts,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, page.encode(errors="replace"))
    return path


_LOOKS = ("findings.css", "check.css")


def _scripts(data: DataCheck) -> str:
    names = list(dict.fromkeys(name for counts in data.scripts.values() for name in counts))
    sides = ("prompt", "chosen", "rejected")
    rows = [(name, *(f"{data.scripts[side].get(name, 0):,}" for side in sides)) for name in names]
    return table(("Script", *sides), rows, sides, kind="scripts")


def _rows(found: PreFlight) -> Iterator[tuple[str, object]]:
    """Rows of each split, and the settings of the check."""
    for name, split in found.data.splits.items():
        yield f"{name}: rows, pairs, usable", f"{split.rows:,}, {split.pairs:,}, {split.usable:,}"
    yield "tokenizer", found.data.tokenizer
    for name, value in asdict(found.data.settings).items():
        yield name, "" if value is None else value
    if found.why_no_cost:
        yield "no estimate of the cost", found.why_no_cost
