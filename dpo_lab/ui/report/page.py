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
from importlib.resources import files
from pathlib import Path

from plotly.offline import get_plotlyjs, get_plotlyjs_version

from dpo_lab.training.files import write_bytes, write_text
from dpo_lab.training.records import SampleRecord, StepRecord
from dpo_lab.training.start_or_resume import DATA_FACTS
from dpo_lab.ui.figures.style import CSS_COLOURS, PLOTLY_CONFIG
from dpo_lab.ui.figures.training_curves import StartLoss, beta_changes
from dpo_lab.ui.figures.training_figure import training_figure
from dpo_lab.ui.html.data_list import HELD_OUT, data_list
from dpo_lab.ui.html.page_policy import content_policy
from dpo_lab.ui.html.tables import render, samples_table, table

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
    folder = files("dpo_lab.ui.report")
    own = folder.joinpath("report.js").read_text(encoding="utf-8")
    scripts = [own] if library else [get_plotlyjs(), own]
    # What is shared comes from where the page itself came: this disk, or the server that shows it.
    policy = content_policy(scripts, "'self' file:" if library else "")
    last = max((sample.step for sample in samples), default=None)
    page = render(
        "report/report.html.jinja",
        title=title,
        policy=policy,
        style=CSS_COLOURS + folder.joinpath("report.css").read_text(encoding="utf-8"),
        config=config,
        beta=config.get("beta", records[0].beta if records else None),
        beta_changes=beta_changes(records),
        last=records[-1] if records else None,
        summary=summary,
        samples=[sample for sample in samples if sample.step == last],
        shown=SHOWN_SAMPLES,
        prompt_kind=environment.get("prompt_kind", HELD_OUT),
        data_list=data_list(environment),
        environment={k: v for k, v in environment.items() if k not in DATA_FACTS},
        figure={"figure": json.loads(figure.to_json()), "config": PLOTLY_CONFIG},
        library=library and Path(os.path.relpath(library, Path(path).parent)).as_posix(),
        scripts=scripts,
        flat=_flat,
        samples_table=samples_table,
        table=table,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A lone surrogate in a model's answer must not lose the whole report.
    write_bytes(path, page.encode(errors="replace"))
    return path


def shared_plotly(folder: Path) -> Path | None:
    """Plotly's own file in a folder, written where it is not there; none if that is refused."""
    path = folder / f"plotly-{get_plotlyjs_version()}.min.js"
    source = get_plotlyjs()
    try:
        if not path.exists() or path.stat().st_size != len(source.encode()):
            folder.mkdir(parents=True, exist_ok=True)
            write_text(path, source)
    except OSError:
        return None
    return path


def _flat(values: Mapping, prefix: str = "") -> Iterable[tuple[str, object]]:
    """Nested mappings as rows with dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
