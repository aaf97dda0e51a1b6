"""One run as a web page that needs no network and runs no text of a model.

The page holds plotly, 5 MB, or finds it in a file that the pages of a folder share. Every string of
a model, a data set or a config is escaped. As a second lock, the page's own policy runs no script
in the page but its own two, known by their digests, fetches nothing and sends no form. A page that
shares plotly must also let scripts run that come from where it lies itself, its server or this
disk: a browser checks no digest of a file that is read from disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from plotly.offline import get_plotlyjs, get_plotlyjs_version

from dpo_lab.training.begin_run import DATA_FACTS
from dpo_lab.training.records import SampleRecord, StepRecord
from dpo_lab.ui.figures.style import PLOTLY_CONFIG, POLICY, REFERENCE
from dpo_lab.ui.figures.training_curves import StartLoss, beta_changes
from dpo_lab.ui.figures.training_figure import training_figure
from dpo_lab.ui.html.data_list import HELD_OUT, data_list
from dpo_lab.ui.html.page_policy import content_policy
from dpo_lab.ui.html.tables import escaped, number, samples_table

SHOWN_SAMPLES = 12
"""Rows of the table of samples before the rest is folded away."""


def write_report(
    path: Path,
    *,
    title: str,
    config: Mapping,
    records: Sequence[StepRecord],
    samples: Sequence[SampleRecord],
    summary: Mapping,
    environment: Mapping,
    start_loss: StartLoss | None,
    library: Path | None = None,
) -> Path:
    """Write the page of one run, all of it or nothing.

    Args:
        path: The file to write; one that is there is replaced in one go.
        title: Plain text.
        config: The run's settings; `model`, `data`, `loss` and `beta` are named in the header.
        records: Of one run, in order of steps.
        samples: Of any steps; those of the last step are shown.
        summary: Label to `{"before": float, "after": float, "text": str}`, a tile each; `text`
            (a standard error, an interval, n, a unit) may be left out.
        environment: Versions, origin of the weights, what became of the rows.
        start_loss: The loss at margin 0, one or as it changed with beta; or none.
        library: Plotly as `shared_plotly` wrote it, to be read by the page; none puts it inside.

    Returns:
        `path`.
    """
    figure = training_figure(records, start_loss=start_loss)
    body = [
        _header(title, config, records),
        _tiles(summary),
        f"<section><h2>Training</h2><div id='training'></div><p class='note'>{_FIGURE_NOTE}</p>"
        "<noscript><p>The curves need JavaScript.</p></noscript>"
        "</section>",
        _samples(samples, environment.get("prompt_kind", HELD_OUT)),
        _data(environment),
        "<section>",
        _fold("Config", config),
        _fold("Environment", {k: v for k, v in environment.items() if k not in DATA_FACTS}),
        "</section>",
    ]
    # "<" as an escape, so that no text in the figure can end the script element.
    data = json.dumps({"figure": json.loads(figure.to_json()), "config": PLOTLY_CONFIG})
    place = library and Path(os.path.relpath(library, Path(path).parent)).as_posix()
    page = _page(title, "\n".join(body), data.replace("<", "\\u003c"), place)
    _write_atomically(Path(path), page)
    return Path(path)


def shared_plotly(folder: Path) -> Path | None:
    """Plotly's own file in a folder, written where it is not there; none if that is refused."""
    path = folder / f"plotly-{get_plotlyjs_version()}.min.js"
    source = get_plotlyjs()
    try:
        if not path.exists() or path.stat().st_size != len(source.encode()):
            _write_atomically(path, source)
    except OSError:
        return None
    return path


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # A lone surrogate in a model's answer must not lose the whole report.
        temporary.write_bytes(text.encode("utf-8", errors="replace"))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _page(title: str, body: str, data: str, library: str | None) -> str:
    scripts = [_SCRIPT] if library else [get_plotlyjs(), _SCRIPT]
    elements = [f"<script>{script}</script>" for script in scripts]
    if library:
        # From where the page itself came: this disk, or the server that shows it.
        elements.insert(0, f'<script src="{escaped(quote(library))}"></script>')
    newline = "\n"
    policy = content_policy(scripts, "'self' file:" if library else "")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{policy}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escaped(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
{body}
</main>
<script type="application/json" id="figure">{data}</script>
{newline.join(elements)}
</body>
</html>
"""


def _header(title: str, config: Mapping, records: Sequence[StepRecord]) -> str:
    """Title and the sentence on what was run; what the config does not name is left out."""
    parts = [
        f"{name} <b>{escaped(config[name])}</b>"
        for name in ("model", "data", "loss")
        if name in config
    ]
    beta = config.get("beta", records[0].beta if records else None)
    if beta is not None:
        changes = "".join(
            f" → <b>{value:.3g}</b> at step {step}" for step, value in beta_changes(records)
        )
        parts.append(f"β <b>{escaped(beta)}</b>{changes}")
    if records:
        last = records[-1]
        pairs = f"<b>{last.pairs_seen:,}</b> pairs ({last.epoch:.2f} epochs)"
        parts.append(f"<b>{last.step:,}</b> optimiser steps on {pairs}")
    sentence = ", ".join(parts)
    return (
        f"<header><p class='eyebrow'>DPO Lab</p><h1>{escaped(title)}</h1>"
        f"<p class='lede'>{sentence[:1].upper()}{sentence[1:]}.</p></header>"
    )


def _tiles(summary: Mapping) -> str:
    tiles = [
        f"<li><h3>{escaped(label)}</h3><p class='change'><span>{number(tile['before'])}</span>"
        f"<span class='arrow'>→</span><strong>{number(tile['after'])}</strong></p>"
        f"<p class='note'>{escaped(tile.get('text') or '')}</p></li>"
        for label, tile in summary.items()
    ]
    return f"<ul class='tiles'>{''.join(tiles)}</ul>" if tiles else ""


def _samples(samples: Sequence[SampleRecord], kind: str) -> str:
    """The last step's samples as a table, the first rows open and the rest folded."""
    if not samples:
        return ""
    last = max(sample.step for sample in samples)
    rows = [sample for sample in samples if sample.step == last]
    shown = samples_table(rows[:SHOWN_SAMPLES])
    more = rows[SHOWN_SAMPLES:]
    if more:
        shown += f"<details><summary>{len(more)} more</summary>{samples_table(more)}</details>"
    return (
        f"<section><h2>Samples</h2><p class='note'>Greedy answers to {len(rows)} {escaped(kind)}"
        f"{'s' * (len(rows) != 1)} after step {last:,}.</p>{shown}</section>"
    )


def _data(environment: Mapping) -> str:
    """What became of the rows, by number."""
    rows = data_list(environment)
    return f"<section><h2>Data</h2>{rows}</section>" if rows else ""


def _fold(heading: str, values: Mapping) -> str:
    rows = "".join(
        f"<tr><th>{escaped(name)}</th><td>{escaped(value)}</td></tr>"
        for name, value in _flat(values)
    )
    return f"<details><summary>{heading}</summary><table class='values'>{rows}</table></details>"


def _flat(values: Mapping, prefix: str = "") -> Iterable[tuple[str, object]]:
    """Nested mappings as rows with dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


_FIGURE_NOTE = (
    "Thin lines: the training batch of each step. Dashed with points: held-out pairs. Dotted "
    "uprights: beta or the learning rate was changed. A click on a legend's entry hides its curves."
)

_SCRIPT = """
const { figure, config } = JSON.parse(document.getElementById("figure").textContent);
const style = getComputedStyle(document.documentElement);
const ink = () => style.getPropertyValue("--muted").trim();
figure.layout.font = { color: ink() };
if (window.Plotly) {
  Plotly.newPlot("training", figure.data, figure.layout, config);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    Plotly.relayout("training", { "font.color": ink() }));
} else {
  const library = document.querySelector("script[src]").getAttribute("src");
  document.getElementById("training").textContent =
    `The curves are drawn by ${library}, which is not there. Copy it along with this page, or ` +
    "write the page as one file: dpo-lab runs report RUN --single-file.";
}
"""

_STYLE = f"""
:root {{
  color-scheme: light dark;
  --page: #fbfbfa; --card: #ffffff; --ink: #1c1e21; --muted: #5c6269; --line: #e3e4e6;
}}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #131518; --card: #1b1e22; --ink: #eceef0; --muted: #a3a9b0; --line: #31353b; }}
}}
* {{ box-sizing: border-box; }}
body {{
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif;
  font-variant-numeric: tabular-nums;
}}
main {{ max-width: 1360px; margin: 0 auto; padding: 48px 32px 72px; }}
h1 {{ margin: 0; font-size: 38px; line-height: 1.15; letter-spacing: -0.02em; text-wrap: balance; }}
h2 {{ margin: 0 0 4px; font-size: 21px; letter-spacing: -0.01em; }}
h3 {{ margin: 0; font-size: 13px; font-weight: 600; color: var(--muted); }}
section {{ margin-top: 44px; }}
.eyebrow {{
  margin: 0 0 8px; font-size: 13px; font-weight: 700; letter-spacing: 0.08em;
  text-transform: uppercase; color: {POLICY};
}}
.lede {{ margin: 14px 0 0; max-width: 96ch; font-size: 18px; color: var(--muted); }}
.lede b {{ color: var(--ink); font-weight: 600; }}
.note {{ margin: 4px 0 0; font-size: 13px; color: var(--muted); }}
.tiles {{
  display: grid; grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); gap: 14px;
  margin: 32px 0 0; padding: 0; list-style: none;
}}
.tiles li {{
  padding: 16px 18px; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
}}
.change {{
  display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 10px; margin: 4px 0 0;
  color: var(--muted);
}}
.change span {{ font-size: 20px; }}
.change strong {{ font-size: 30px; line-height: 1.2; letter-spacing: -0.02em; color: var(--ink); }}
#training {{ margin: 0 -8px; }}
table {{ width: 100%; border-collapse: collapse; font-size: 15px; }}
th {{ text-align: left; font-weight: 600; font-size: 13px; color: var(--muted); }}
th, td {{ padding: 10px 16px 10px 0; border-bottom: 1px solid var(--line); vertical-align: top; }}
td {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
td em {{ color: var(--muted); }}
.data {{ margin: 8px 0 0; padding-left: 20px; font-size: 15px; }}
.data ul {{ margin: 4px 0; padding-left: 20px; font-size: 13px; color: var(--muted); }}
.samples {{ margin-top: 14px; table-layout: fixed; }}
.samples i {{
  display: inline-block; width: 9px; height: 9px; margin-right: 7px; border-radius: 50%;
}}
.samples .reference {{ background: {REFERENCE}; }}
.samples .policy {{ background: {POLICY}; }}
.samples td:nth-child(2), .samples td.score {{ color: var(--muted); }}
.samples td.score b {{ color: var(--ink); }}
.samples .score {{ width: 132px; padding-right: 0; text-align: right; white-space: nowrap; }}
details {{ border-bottom: 1px solid var(--line); }}
summary {{ padding: 12px 0; font-weight: 600; cursor: pointer; }}
.values {{ margin: 0 0 18px; font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace; }}
.values th {{ width: 300px; font-size: inherit; font-weight: 400; }}
.values th, .values td {{ padding: 4px 16px 4px 0; border: 0; }}
@media (max-width: 1050px) {{ #training {{ min-width: 1000px; }} section {{ overflow-x: auto; }} }}
"""
