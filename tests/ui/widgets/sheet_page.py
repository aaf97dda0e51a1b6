"""What a page holds of a live figure, without a browser, and runs to draw."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
from page_messages import says, sets

from dpo_lab.training.history import History
from dpo_lab.training.records import StepRecord
from dpo_lab.ui.widgets.live import LiveFigure

TRAIN = ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
TRAIN += ("logratios/chosen", "logratios/rejected", "rewards/margins_p10", "rewards/margins_p90")


def history(steps: int, beta: float = 0.1) -> History:
    history = History()
    for step in range(1, steps + 1):
        values = {key: math.sin(step + place) for place, key in enumerate(TRAIN)}
        if step % 25 == 0:
            values |= {"kl/per_token": step / 100, "kl/per_token_stderr": 0.1, "kl/n": 64.0}
        history.append(StepRecord(step, 0.0, step, beta, 1e-3, values))
    return history


class SheetPage:
    """What a page holds of a figure: pieces as they come, merged by name."""

    def __init__(self, figure: LiveFigure):
        self.figure, self.sheet = figure, figure.view.sheet
        self.pieces, self.sent, self.lost = self.sheet.get_state(), [], False
        self.sheet.send_state = self._take
        sets(figure.view, _view_count=1)

    @property
    def version(self) -> int:
        """Of what was sent last, whether it came or not."""
        return self.sheet.get_state("version")["version"]

    def _take(self, names: set[str]) -> None:
        pieces = self.sheet.get_state(names)
        self.sent.append(sorted(pieces))
        if not self.lost:
            self.pieces |= pieces

    def size(self, number: int) -> int:
        return _size(self.sheet.get_state(set(self.sent[number])))

    def missing(self) -> list[str]:
        versions = self.pieces["versions"]
        return [name for name in versions if self.pieces[name]["version"] != versions[name]]

    def says(self, **content: Any) -> None:
        says(self.sheet, {"page": "p", **content})

    def shows(self) -> dict[str, Any]:
        """The figure as plain values, ready to be compared."""
        traces = sorted((n for n in self.pieces if n.startswith("trace ")), key=_number)
        data = [plain(self.pieces[name]["piece"]) for name in traces]
        return {"data": data, "layout": plain(self.pieces["layout"]["piece"])}


def _number(name: str) -> int:
    return int(name.split()[1])


def _size(value: Any) -> int:
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(len(key) + _size(one) for key, one in value.items())
    return sum(map(_size, value)) if isinstance(value, list) else len(json.dumps(value))


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, dict):
        if value.keys() == {"dtype", "value"}:
            return plain(np.frombuffer(value["value"], value["dtype"]))
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return "nan" if value != value else value


def checked(spec: dict[str, Any]) -> dict[str, Any]:
    """The same as plotly's own classes read it, every name and value checked."""
    figure = go.Figure(spec)
    layout = figure.layout.to_plotly_json()
    # What is empty stays out of theirs.
    layout |= {key: [] for key in ("annotations", "shapes") if spec["layout"].get(key) == []}
    return {"data": [plain(t.to_plotly_json()) for t in figure.data], "layout": plain(layout)}
