"""Figure of a check of data: lengths in tokens, and rules that look at form alone."""

from __future__ import annotations

import plotly.graph_objects as go

from dpo_lab.data.preflight.lengths import Lengths
from dpo_lab.data.preflight.result import DataCheck
from dpo_lab.data.preflight.shortcuts import NOTABLE, SERIOUS
from dpo_lab.ui.figures.style import CHOSEN, POLICY, REJECTED, STYLE, TEXT, THEORY, tint
from dpo_lab.ui.html.tables import escaped

_PANELS = ((0, 0.26), (0.335, 0.575), (0.8, 1))
HEIGHT = 340


def preflight_figure(found: DataCheck) -> go.Figure:
    """Three panels: lengths of pairs, lengths of responses, and how often each rule is right.

    Args:
        found: Result of the check.
    """
    figure = go.Figure(layout={"template": {"layout": STYLE}, "height": HEIGHT})
    limit = found.settings.max_length
    pair = found.lengths["pair"]
    cut = pair.above(limit)
    _head(figure, 0, "Length of a pair", f"{cut:,} above max_length {limit:,} (dotted)")
    _head(figure, 1, "Length of a response", "before any cut")
    _head(figure, 2, "Rules that look at form alone", "share right, ties a half; 95 % interval")
    edges = _bars(figure, pair)
    if limit <= edges[-1]:
        figure.add_shape(
            x0=limit, x1=limit, y0=0, y1=1, xref="x", yref="y domain", line_color=THEORY
        )
    _lines(figure, found)
    _rules(figure, found)
    for number in (1, 2):
        end = "" if number == 1 else str(number)
        figure.update_layout(
            {
                f"xaxis{end}": {"title.text": "tokens", "rangemode": "tozero"},
                f"yaxis{end}": {"title.text": "pairs" if number == 1 else "responses"}
                | {"rangemode": "tozero", "tickformat": "~s"},
            }
        )
    legend = {"x": _PANELS[1][1], "y": 1, "xanchor": "right", "yanchor": "top"}
    figure.update_layout(legend=legend | {"orientation": "v", "bgcolor": "rgba(0, 0, 0, 0)"})
    margin = {"l": 64, "r": 24, "t": 72, "b": 50}
    return figure.update_layout(hovermode="closest", margin=margin, bargap=0)


def _head(figure: go.Figure, panel: int, title: str, note: str) -> None:
    left, right = _PANELS[panel]
    end = "" if panel == 0 else str(panel + 1)
    figure.update_layout(
        {
            f"xaxis{end}": {"domain": [left, right], "anchor": f"y{end}"},
            f"yaxis{end}": {"anchor": f"x{end}"},
        }
    )
    if panel == 2:
        left = _PANELS[1][1] + 0.04  # above the rules' names
    figure.add_annotation(
        x=left, y=1, xref="paper", yref="paper", xanchor="left", yshift=22, align="left",
        text=f"<b style='font-size:14px'>{title}</b><br>{note}",
    )  # fmt: skip


def _bars(figure: go.Figure, lengths: Lengths) -> list[int]:
    """Bars of a length's counts; gives the edges of its bins."""
    edges, counts = lengths.binned()
    width = edges[1] - edges[0]
    ranges = [f"{low:,} to {low + width - 1:,}" for low in edges[:-1]]
    ranges[-1] = f"{edges[-2]:,} and more"
    figure.add_bar(
        x=[low + width / 2 for low in edges[:-1]],
        y=counts,
        width=width,
        customdata=ranges,
        marker={"color": tint(POLICY, 0.75)},
        showlegend=False,
        hovertemplate="%{customdata} tokens: %{y:,}<extra></extra>",
    )
    return edges


def _lines(figure: go.Figure, found: DataCheck) -> None:
    width = max(found.lengths[side].bin_width for side in ("chosen", "rejected"))
    for side, colour in (("chosen", CHOSEN), ("rejected", REJECTED)):
        edges, counts = found.lengths[side].binned(width)
        figure.add_scatter(
            x=edges,
            y=[*counts, counts[-1]],
            mode="lines",
            line={"color": colour, "width": 2, "shape": "hv"},
            name=side,
            xaxis="x2",
            yaxis="y2",
            hovertemplate=f"from %{{x:,}} tokens: %{{y:,}}<extra>{side}</extra>",
        )


def _rules(figure: go.Figure, found: DataCheck) -> None:
    rules = list(reversed(found.rules))
    rows = list(range(len(rules)))
    ends = [rule.interval for rule in rules]
    colours = [REJECTED if low > SERIOUS else THEORY if low > NOTABLE else TEXT for low, _ in ends]
    names = [escaped(rule.name if rule.name == "first words" else rule.rule) for rule in rules]
    figure.add_scatter(
        x=[rule.share for rule in rules],
        y=rows,
        error_x={
            "array": [high - rule.share for rule, (_, high) in zip(rules, ends, strict=True)],
            "arrayminus": [rule.share - low for rule, (low, _) in zip(rules, ends, strict=True)],
            "width": 0,
            "thickness": 1.6,
            "color": TEXT,
        },
        mode="markers",
        marker={"size": 9, "color": colours},
        customdata=[[escaped(rule.rule), rule.right, rule.wrong] for rule in rules],
        xaxis="x3",
        yaxis="y3",
        showlegend=False,
        hovertemplate="%{customdata[0]}: right on %{x:.1%} of pairs<br>right %{customdata[1]:,}, "
        "wrong %{customdata[2]:,}, the others ties<extra></extra>",
    )
    most = max(0.8, *(high for _, high in ends)) + 0.03
    figure.update_layout(
        {
            "xaxis3": {"title.text": "share right", "range": [0.45, min(most, 1.02)]}
            | {"tickformat": ".0%", "nticks": 5},
            "yaxis3": {"tickvals": rows, "ticktext": names, "showgrid": False, "ticksuffix": " "}
            | {"zeroline": False}
            | {"range": [-0.6, len(rows) - 0.4], "title.text": ""},
        }
    )
    for at, colour in ((0.5, TEXT), (NOTABLE, THEORY), (SERIOUS, REJECTED)):
        figure.add_shape(x0=at, x1=at, y0=0, y1=1, xref="x3", yref="y3 domain", line_color=colour)
