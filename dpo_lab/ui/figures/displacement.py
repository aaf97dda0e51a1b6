"""Figures of likelihood displacement: which answers or tokens lost or gained probability."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dpo_lab.analysis.displacement import GROUPS, Displacement, Share, StepDisplacement
from dpo_lab.ui.figures.style import LEGEND, POLICY, REFERENCE, STYLE, TEXT
from dpo_lab.ui.html.output import Fragment, visible
from dpo_lab.ui.html.tables import escaped, table

ROWS = 8
"""How many gaining, and how many losing, answers are shown."""
_LEFT, _RIGHT = (0, 0.3), (0.53, 1)


def mass_figure(found: Displacement, prompt: str, rows: int = ROWS) -> go.Figure:
    """Probability before and after: of groups of answers, and of the answers that moved most.

    Args:
        found: Result of `exact_displacement`.
        prompt: The prompt as text.
        rows: How many gaining, and how many losing, answers are shown.

    Returns:
        Left: the groups, which cover all answers. Right: the answers, largest gain on top.
    """
    groups = list(reversed(found.groups()))
    moving = [*found.losing(rows), *reversed(found.gaining(rows))]
    most = (
        f"{found.moved:.0%} changed hands; {found.to_unseen:.0%} of it to answers in no such pair"
    )
    heads = (
        (_LEFT, f"All answers to “{escaped(prompt)}”", "by what the pairs of this prompt say"),
        (_RIGHT, f"The {len(moving)} answers that moved most", most),
    )
    figure = _figure(heads, height=120 + 44 * max(len(groups), len(moving) // 2 + 4))
    _bars(figure, groups, [escaped(share.text) for share in groups], "x", "y", True)
    _bars(figure, moving, [_named(share) for share in moving], "x2", "y2", False)
    return figure


def shares_figure(shares: Sequence[Share], n: int) -> go.Figure:
    """Shares of sampled answers before and after, with standard errors.

    Args:
        shares: Result of `sampled_displacement`.
        n: Number of answers drawn from each model.
    """
    shares = sorted(shares, key=lambda share: share.gain)
    heads = (((0, 1), "Sampled answers whose share moved most", f"n = {n:,} each, ±1 s.e."),)
    figure = _figure(heads, height=130 + 34 * len(shares))
    _bars(figure, shares, [_named(share) for share in shares], "x", "y", True, n)
    return figure


def _figure(heads, height: int) -> go.Figure:
    figure = go.Figure(layout={"template": {"layout": STYLE}, "height": height})
    place = {"xref": "paper", "yref": "paper", "y": 1, "yshift": 30, "xanchor": "left"}
    for number, ((left, right), title, note) in enumerate(heads, start=1):
        end = "" if number == 1 else str(number)
        text = f"<b style='font-size:14px'>{title}</b><br>{note}"
        figure.add_annotation(place | {"x": left, "text": text, "align": "left"})
        figure.update_layout(
            {
                f"xaxis{end}": {
                    "domain": [left, right],
                    "anchor": f"y{end}",
                    "tickformat": "~%",
                    "rangemode": "tozero",
                    "title.text": "probability",
                },
                f"yaxis{end}": {"anchor": f"x{end}", "ticksuffix": " ", "showgrid": False}
                | {"title.text": "", "nticks": 60},
            }
        )
    below = LEGEND | {"x": 0, "y": 1, "yanchor": "bottom", "traceorder": "reversed"}
    figure.update_layout(legend=below, margin={"l": 150, "r": 20, "t": 92, "b": 50})
    return figure.update_layout(hovermode="closest", barmode="overlay")


def _bars(figure, shares, names, x: str, y: str, legend: bool, n: int | None = None) -> None:
    """Two bars per row; plotly draws rows from the bottom up."""
    # Rows are numbered, since two answers may be escaped or cut to the same label.
    rows, thick = list(range(len(shares))), 0.38 if len(shares) > len(GROUPS) else 0.22
    figure.update_layout({f"{y[0]}axis{y[1:]}": {"tickvals": rows, "ticktext": names}})
    for name, colour, side in (("policy", POLICY, "after"), ("reference", REFERENCE, "before")):
        values = [getattr(share, side) for share in shares]
        errors = None if n is None else [(v * (1 - v) / n) ** 0.5 for v in values]
        figure.add_bar(
            x=values,
            y=rows,
            error_x=errors and {"array": errors, "width": 0, "thickness": 1.4, "color": TEXT},
            width=thick,
            offset=-thick if side == "after" else 0,
            customdata=names,
            orientation="h",
            marker={"color": colour},
            name=name,
            xaxis=x,
            yaxis=y,
            showlegend=legend,
            hovertemplate=f"%{{customdata}}: %{{x:.2%}}<extra>{name}</extra>",
        )


def _named(share: Share) -> str:
    text = escaped(share.text) or "(empty)"
    text = text if len(share.text) <= 40 else f"{escaped(share.text[:39])}…"
    return f"{text} ({escaped(share.note)})" if share.note else text


def steps_table(steps: Sequence[StepDisplacement], response: str) -> Fragment:
    """Table of the next token at each step of a response: its probability, and what gained or lost.

    Args:
        steps: Result of `token_displacement`.
        response: Name of the response, such as "chosen".
    """
    titles = (f"Token of {response}", "Before", "After", "Gained most", "Lost most")
    rows, words = [], []
    for step in steps:
        token = Fragment(f"<code>{visible(step.own.text)}</code>", step.own.text)
        shares = [f"{value:.1%}" for value in (step.own.before, step.own.after)]
        rows.append((token, *shares, _tokens(step.gaining), _tokens(step.losing)))
        gained = ", ".join(f"{one.text.strip()} {_points(one.gain)}" for one in step.gaining[:2])
        words.append(f"{step.own.text.strip()}: {' to '.join(shares)}; gained most: {gained}")
    return Fragment(table(titles, rows, titles[1:3], (16, 10, 10, 32, 32)), "\n".join(words))


def _tokens(shares: Sequence[Share]) -> Fragment:
    kept = [share for share in shares if abs(share.gain) >= 5e-4]
    named = (f"<code>{visible(share.text)}</code>&nbsp;{_points(share.gain)}" for share in kept)
    return Fragment(", ".join(named) or "–", "")


def _points(gain: float) -> str:
    return f"{gain:+.1%}".replace("-", "−")
