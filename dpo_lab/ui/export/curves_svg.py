"""A run's curves as plain SVG, drawn without a browser: the picture of a model card."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from dpo_lab.training.history import History
from dpo_lab.training.records import StepRecord
from dpo_lab.ui.figures.style import CHOSEN, POLICY, REFERENCE, REJECTED, TEXT

WIDTH, HEIGHT, GAP = 360, 220, 16
LEFT, TOP, BELOW = 52, 44, 34
"""Of a panel: room for ticks, title and legend, and the axis of steps."""
PANELS = (
    ("Loss", (("loss", "training", REFERENCE), ("eval/loss", "held out", POLICY))),
    (
        "Rewards (beta x log-ratio)",
        (("rewards/chosen", "chosen", CHOSEN), ("rewards/rejected", "rejected", REJECTED)),
    ),
    (
        "Reward margin",
        (("rewards/margins", "training", REFERENCE), ("eval/rewards/margins", "held out", POLICY)),
    ),
    ("KL(policy || reference), nats an answer", (("kl/per_token", "sampled", POLICY),)),
    (
        "Score of the policy's answers",
        (("on_policy/reward", "training", REFERENCE), ("score/policy", "held out", POLICY)),
    ),
)
"""Titles, and of each curve its key, name and colour; panels without a value are left out."""


def curves_svg(records: Sequence[StepRecord]) -> str:
    """The curves of a run, two panels a row, on a transparent ground; readable light and dark.

    Args:
        records: The run's records.

    Returns:
        An SVG document; empty where nothing was measured twice.
    """
    history, drawn = History.of(records), []
    for title, curves in PANELS:
        values = [(name, colour, history.columns(key)) for key, name, colour in curves]
        values = [one for one in values if len(one[2]) > 1]
        if values:
            drawn.append((title, values))
    if not drawn:
        return ""
    panels = []
    for index, (title, values) in enumerate(drawn):
        x, y = index % 2 * (WIDTH + GAP), index // 2 * (HEIGHT + GAP)
        panels.append(f'<g transform="translate({x} {y})">{_panel(title, values)}</g>')
    rows = math.ceil(len(drawn) / 2)
    width = WIDTH * min(2, len(drawn)) + GAP * (len(drawn) > 1)
    height = rows * HEIGHT + (rows - 1) * GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="11" fill="{TEXT}" '
        f'role="img" aria-label="Curves of the training run">\n' + "\n".join(panels) + "\n</svg>\n"
    )


def _panel(title: str, curves: list[tuple[str, str, np.ndarray]]) -> str:
    points = np.concatenate([values for _, _, values in curves])
    last = max(points[:, 0].max(), 1)
    ticks = nice_ticks(points[:, 1].min(), points[:, 1].max())
    low, high = ticks[0], ticks[-1]

    def place(step: float, value: float) -> tuple[float, float]:
        share = (value - low) / (high - low)
        across = LEFT + step / last * (WIDTH - LEFT - 12)
        return across, HEIGHT - BELOW - share * (HEIGHT - BELOW - TOP)

    parts = [f'<text x="{LEFT}" y="14" font-size="13" font-weight="600">{escape(title)}</text>']
    across = LEFT
    for name, colour, _ in curves:
        parts.append(f'<path d="M{across} 28h14" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{across + 19}" y="32">{escape(name)}</text>')
        across += 34 + 7 * len(name)
    for tick in ticks:
        _, y = place(0, tick)
        line = f'<path d="M{LEFT} {y:.1f}H{WIDTH - 12}" stroke="{TEXT}" stroke-opacity="0.25"/>'
        parts.append(
            f'{line}<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    middle = round(last / 2) / last
    for share, anchor in ((0, "start"), (middle, "middle"), (1, "end")):
        x, _ = place(share * last, low)
        text = f"{share * last:.0f}" if share else "step 0"
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 14}" text-anchor="{anchor}">{text}</text>')
    for _, colour, values in curves:
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in values))
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8" '
            'stroke-linejoin="round"/>'
        )
        if len(values) < 20:
            for x, y in (place(*point) for point in values):
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>')
    return "".join(parts)


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` round numbers in equal steps that reach from `low` or below to `high`."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    size = 10.0 ** math.floor(math.log10(high - low))
    for step in (size * factor for factor in (0.1, 0.2, 0.25, 0.5, 1, 2, 2.5, 5, 10)):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first + 1 <= most:
            return [round(place * step, 12) for place in range(first, last + 1)]
    return [low, high]
