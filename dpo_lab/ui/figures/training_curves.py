"""Plotly traces from the records of a run: pure functions, at most `MAX_POINTS` points a curve."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dpo_lab.analysis.frontier_curve import LISTED, FrontierCurve, on_frontier
from dpo_lab.training.history import History
from dpo_lab.training.records import StepRecord
from dpo_lab.ui.figures.style import (
    CHOSEN,
    POLICY,
    REFERENCE,
    REJECTED,
    SHADE,
    SMALL,
    THEORY,
    tint,
)

MAX_POINTS = 1000
FORMER_RUNS, FORMER_POINTS = 6, 120
"""Maximum number of earlier runs in a figure, and of points in each of their curves."""

SCORE, SHADED, FRONTIER = 7, 8, 9
"""Numbers of the score panel, of the axis for shading, and of the panel of reward against KL."""

StartLoss = float | Sequence[tuple[int, float]]
"""Loss at margin 0: one value, or pairs of a step and the value from then on, in step order."""


@dataclass(frozen=True)
class _Line:
    """A curve; `around` holds the keys of its band: a standard error, or a lower and upper edge.

    In a panel that has other curves where the policy samples, `sampled` says for which it is.
    """

    panel: int
    key: str
    name: str
    colour: str
    kind: str = "train"
    around: tuple[str, ...] = ()
    sampled: bool | None = None


_KINDS = {
    "train": {"mode": "lines", "line": {"width": 1.3}, "opacity": 0.8},
    "held-out": {"mode": "lines+markers", "line": {"width": 2, "dash": "4px,3px"}},
    "measured": {"mode": "lines+markers", "line": {"width": 2}},
    "faint": {"mode": "lines+markers", "line": {"width": 1.2, "dash": "2px,3px"}, "opacity": 0.8},
}
_QUIET = {"mode": "lines", "hoverinfo": "skip", "showlegend": False}
_PERCENTILES = ("rewards/margins_p10", "rewards/margins_p90")
_LINES = (
    _Line(1, "loss", "train", POLICY, sampled=False),
    _Line(1, "eval/loss", "held-out", POLICY, "held-out", sampled=False),
    _Line(1, "on_policy/reward", "reward", POLICY, sampled=True),
    _Line(1, "on_policy/objective", "reward − β × KL", THEORY, sampled=True),
    _Line(2, "rewards/chosen", "chosen", CHOSEN),
    _Line(2, "rewards/rejected", "rejected", REJECTED),
    _Line(2, "eval/rewards/chosen", "chosen, held-out", CHOSEN, "held-out"),
    _Line(2, "eval/rewards/rejected", "rejected, held-out", REJECTED, "held-out"),
    _Line(3, "rewards/margins", "train", POLICY, around=_PERCENTILES, sampled=False),
    _Line(3, "eval/rewards/margins", "held-out", POLICY, "held-out", sampled=False),
    _Line(3, "on_policy/entropy", "of its answers", POLICY, sampled=True),
    _Line(4, "kl/k1", "plain log-ratio", POLICY, "faint", ("kl/k1_stderr",)),
    _Line(4, "kl/per_token", "per token", POLICY, "measured", ("kl/per_token_stderr",)),
    _Line(5, "logratios/chosen", "chosen", CHOSEN),
    _Line(5, "logratios/rejected", "rejected", REJECTED),
    _Line(5, "eval/logratios/chosen", "chosen, held-out", CHOSEN, "held-out"),
    _Line(5, "eval/logratios/rejected", "rejected, held-out", REJECTED, "held-out"),
    _Line(6, "rewards/accuracies", "train", POLICY),
    _Line(6, "eval/rewards/accuracies", "held-out", POLICY, "held-out"),
    _Line(6, "on_policy/equal", "equal rewards", REFERENCE),
    _Line(SCORE, "score/policy", "policy", POLICY, "measured", ("score/policy_stderr",)),
    _Line(SCORE, "proxy/policy", "by the reward model", THEORY, "faint"),
    _Line(SCORE, "score/reference", "reference", REFERENCE, "measured"),
)
# Panel, keys (the first one measured is drawn), colour, whether the end is labelled with beta.
_FORMER_LINES = (
    (1, ("eval/loss", "loss"), POLICY, False),
    (2, ("eval/rewards/chosen", "rewards/chosen"), CHOSEN, False),
    (2, ("eval/rewards/rejected", "rewards/rejected"), REJECTED, False),
    (3, ("eval/rewards/margins", "rewards/margins"), POLICY, False),
    (4, ("kl/per_token",), POLICY, True),
    (5, ("eval/logratios/chosen", "logratios/chosen"), CHOSEN, False),
    (5, ("eval/logratios/rejected", "logratios/rejected"), REJECTED, False),
    (6, ("eval/rewards/accuracies", "rewards/accuracies"), POLICY, False),
    (SCORE, ("score/policy",), POLICY, True),
)


_FORMER_SAMPLED = {1: ("on_policy/reward",), 3: ("on_policy/entropy",)}
"""Keys of the panels that have other curves where the policy samples."""


FORMER_CURVES = len(_FORMER_LINES) + 1
_NOTHING = History()


def thin(rows: np.ndarray, limit: int = MAX_POINTS) -> np.ndarray:
    """Evenly spaced rows, always with the first and the last.

    Args:
        rows: `(n,)` or `(n, columns)`.
        limit: Maximum number of rows, at least 2.

    Returns:
        At most `limit` rows, unchanged and in order; all rows if there are no more.
    """
    keep = np.linspace(0, len(rows) - 1, min(len(rows), limit))
    return rows[keep.round().astype(int)]


def series(records: Sequence[StepRecord], *keys: str, limit: int = MAX_POINTS) -> np.ndarray:
    """Values of some keys at the steps that have all of them, thinned.

    Args:
        records: Records of one run, in step order.
        *keys: Logged names.
        limit: Maximum number of points.

    Returns:
        `(points, 1 + keys)` in float32: step, then each key's value in its own unit.
    """
    return thin(History.of(records).columns(*keys), limit).astype(np.float32)


def beta_changes(records: Sequence[StepRecord]) -> list[tuple[int, float]]:
    """Step and new beta of every change of beta."""
    steps, betas = History.of(records).columns("beta").T
    return [(int(steps[i]), float(betas[i])) for i in np.flatnonzero(np.diff(betas)) + 1]


def changes(records: Sequence[StepRecord]) -> list[tuple[int, str]]:
    """Step and label of every mid-run change of beta or the peak learning rate."""
    rates = History.of(records).columns("change/learning_rate").tolist()
    labels = [(step, f"β {beta:.3g}") for step, beta in beta_changes(records)]
    labels += [(int(step), f"lr {rate:.3g}") for step, rate in rates]
    return sorted(labels, key=lambda change: change[0])


@dataclass(frozen=True)
class Former:
    """An earlier run, drawn faintly behind another.

    Attributes:
        name: Display name.
        records: Its records.
        method: Its method of training, named at the end of its path; empty if all runs share it.
    """

    name: str
    records: Sequence[StepRecord]
    method: str = ""


def learns_from_samples(records: History) -> bool:
    """Whether a run has rewards of its policy's own answers."""
    return len(records.columns("on_policy/reward")) > 0


def traces_of(
    records: History,
    start_loss: Sequence[tuple[int, float]],
    start_name: str,
    former: Sequence[Former],
    theory: FrontierCurve | None,
    aims_at_optimum: bool,
) -> list[dict]:
    """Every trace of the training figure, the same in number and order whatever was measured."""
    sampled = learns_from_samples(records)
    traces = [*_former_traces(former, sampled), _start_line(records, start_loss, start_name)]
    for line in _LINES:
        drawn = records if line.sampled in (None, sampled) else _NOTHING
        traces += [*_band(drawn, line), _curve(drawn, line)]
    return [*traces, _shade(records), *_frontier_traces(records, theory, aims_at_optimum)]


def _former_traces(former: Sequence[Former], sampled: bool) -> list[dict]:
    """Curves of earlier runs at falling opacity: empty slots first, then the oldest run."""
    shown = [(run.name, History.of(run.records), run.method) for run in former[:FORMER_RUNS]]
    shown += [("", _NOTHING, "")] * (FORMER_RUNS - len(shown))
    aged = reversed(list(enumerate(shown)))
    return [
        trace
        for age, (name, records, method) in aged
        for trace in _former_run(age, name, records, len(records), method, sampled)
    ]


@lru_cache(maxsize=4 * FORMER_RUNS)
def _former_run(
    age: int, name: str, records: History, length: int, method: str, sampled: bool
) -> tuple[dict, ...]:
    """Curves of one earlier run; cached, since every redraw of the current run needs them."""
    look = {"mode": "lines", "showlegend": False, "hoverinfo": "skip"}
    look |= {"opacity": 0.6 * 0.75**age, "name": html.escape(name, quote=False)}

    def drawn(panel: int, points: np.ndarray, key: str, colour: str, label: str | None) -> dict:
        line = look | {"line": {"width": 1.3, "color": colour}}
        if label and len(points):
            end = f"β {records[-1].beta:.3g}"
            if panel == FRONTIER:
                end = f"{method} {end}".strip()
            text = [*[""] * (len(points) - 1), end]
            line |= {"mode": "lines+text", "text": text, "textposition": label}
            line |= {"textfont": SMALL | {"color": colour}, "cliponaxis": False}
        return _trace(panel, *points.T, meta=f"former {age} {key}", **line)

    traces = []
    for panel, keys, colour, labelled in _FORMER_LINES:
        keys = _FORMER_SAMPLED.get(panel, keys) if sampled else keys
        measured = [series(records, key, limit=FORMER_POINTS) for key in keys]
        points = next((found for found in measured if len(found) > 1), measured[-1])
        traces.append(drawn(panel, points, keys[-1], colour, "top left" if labelled else None))
    path = series(records, *on_frontier(records), limit=FORMER_POINTS)[:, 1:]
    return *traces, drawn(FRONTIER, path, "path", POLICY, "bottom center")


def _frontier_traces(
    records: History, theory: FrontierCurve | None, aims_at_optimum: bool
) -> list[dict]:
    """Exact frontier, pi* at the current beta, and the run's path in reward against KL.

    If sums over all answers were measured, the path uses them and has no error bars.
    """
    keys = on_frontier(records)
    exact = keys is LISTED
    errors = () if exact else tuple(f"{key}_stderr" for key in keys)
    steps, kl, score, *error = series(records, *keys, *errors).T
    nothing = np.zeros((0, 2), np.float32)
    curve, star = nothing, nothing
    if theory is not None and len(kl):
        best = theory.star(float(records[-1].beta))
        reach = max(float(kl.max()), best.kl if aims_at_optimum else 0.0, 0.1)
        curve = theory.up_to(1.15 * reach).astype(np.float32)
        star = np.array([(best.kl, best.reward)], np.float32) if aims_at_optimum else nothing
    line = {"mode": "lines", "line": {"color": THEORY, "width": 2}, "name": "exact frontier"}
    mark = {"symbol": "star", "size": 14, "color": THEORY}
    mark = {"mode": "markers", "marker": mark, "name": "π* at the current β"}
    thin_bars = {"width": 0, "thickness": 1, "color": POLICY}
    walked = {"mode": "lines+markers", "customdata": steps, "showlegend": len(kl) > 0}
    walked |= {"name": "the run, exactly" if exact else "the run, ±1 s.e."}
    walked |= {"line": {"color": POLICY, "width": 2}, "marker": {"size": 5, "color": POLICY}}
    for axis_name, size in zip("xy", error or (nothing[:, 0],) * 2, strict=True):
        walked |= {f"error_{axis_name}": {"array": size} | thin_bars}
    tell = "score %{y:.3g}, KL %{x:.3g}<extra>"
    line |= {"hovertemplate": tell + "frontier</extra>"}
    mark |= {"hovertemplate": tell + "π*</extra>"}
    walked |= {"hovertemplate": tell + "step %{customdata}</extra>"}
    return [
        _trace(FRONTIER, *curve.T, meta="frontier", **line | {"showlegend": len(curve) > 0}),
        _trace(FRONTIER, *star.T, meta="optimum", **mark | {"showlegend": len(star) > 0}),
        _trace(FRONTIER, kl, score, meta="path", **walked),
    ]


def _curve(records: History, line: _Line) -> dict:
    points, kind = series(records, line.key), _KINDS[line.kind]
    label = line.name
    if line.kind == "held-out":
        # One legend entry for both dashed lines of a panel whose full lines name the colours.
        named = len(records.columns(line.key.removeprefix("eval/")))
        label = "held-out" if named else line.name.removesuffix(", held-out")
    look = kind | {"line": kind["line"] | {"color": line.colour}}
    look |= {"marker": {"size": 4, "color": line.colour}, "legendgroup": label}
    look |= {
        "showlegend": len(points) > 0 and (label != "held-out" or line.colour in (CHOSEN, POLICY))
    }
    at = "" if line.kind == "train" else " at step %{x}"
    look |= {"hovertemplate": f"%{{y:.4g}}{at}<extra>{line.name}</extra>"}
    return _trace(line.panel, *points.T, name=label, meta=line.key, **look)


def _band(records: History, line: _Line) -> list[dict]:
    """Lower and upper edge, filled between; empty for a line without a band."""
    if not line.around:
        return []
    points = series(records, line.key, *line.around)
    # One sample has no standard error.
    points = points[np.isfinite(points).all(axis=1)]
    steps, value, *around = points.T
    low, high = around if len(around) == 2 else (value - around[0], value + around[0])
    alpha = 0.1 if line.kind == "faint" else 0.2
    look = _QUIET | {"line": {"width": 0}, "legendgroup": line.name}
    fill = {"fill": "tonexty", "fillcolor": tint(line.colour, alpha)}
    low = _trace(line.panel, steps, low, meta=f"{line.key} low", **look)
    return [low, _trace(line.panel, steps, high, meta=f"{line.key} high", **look | fill)]


def _start_line(records: History, start_loss: Sequence[tuple[int, float]], name: str) -> dict:
    """A stepped line: when beta changes in mid-run, the loss at margin 0 may change, too."""
    drawn = bool(records) and bool(start_loss)
    ends = [*start_loss, (records[-1].step, start_loss[-1][1])] if drawn else np.zeros((0, 2))
    steps, values = thin(np.array(ends, np.float32)).T
    look = {"line": {"color": THEORY, "width": 1.5, "dash": "7px,4px", "shape": "hv"}}
    look |= _QUIET | {"showlegend": drawn}
    return _trace(1, steps, values, name=name, meta="start_loss", **look)


def _shade(records: History) -> dict:
    """1 where both log-ratios of a step's training pairs are below zero, else 0."""
    points = series(records, "logratios/chosen", "logratios/rejected")
    both = (points[:, 1:] < 0).all(axis=1).astype(np.float32)
    # Filled from midpoint to midpoint, so that a single step is visible.
    look = _QUIET | {"line": {"width": 0, "shape": "hvh"}, "fill": "tozeroy", "fillcolor": SHADE}
    return _trace(5, points[:, 0], both, meta="both fell", yaxis=f"y{SHADED}", **look)


def _trace(panel: int, steps: np.ndarray, values: np.ndarray, **options) -> dict:
    axes = {"xaxis": axis("x", panel), "yaxis": axis("y", panel)}
    place = {"type": "scatter", "legend": axis("legend", panel)}
    return place | {"x": steps, "y": values} | axes | options


def axis(name: str, number: int) -> str:
    """Name of an axis or legend; plotly omits the number of the first."""
    return name if number == 1 else f"{name}{number}"
