"""Colours and plotly style shared by all figures, readable on light and dark pages."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb

CHOSEN = "#0072B2"
REJECTED = "#D55E00"
POLICY = "#009E73"
REFERENCE = "#999999"
THEORY = "#CC79A7"
TEXT = "#7a7a7a"
"""Grey that is readable on white and on black; a page with a known theme may set a stronger one."""
AXIS = "rgba(128, 128, 128, 0.5)"
GRID = "rgba(128, 128, 128, 0.18)"
SHADE = "rgba(128, 128, 128, 0.2)"

CSS_COLOURS = f":root {{ --dpo-policy: {POLICY}; --dpo-reference: {REFERENCE}; }}\n"
"""Colours as CSS variables."""


def tint(colour: str, opacity: float) -> str:
    """A translucent colour, as CSS and plotly write it.

    Args:
        colour: As `#rrggbb`.
        opacity: From 0 (transparent) to 1.
    """
    red, green, blue = hex_to_rgb(colour)
    return f"rgba({red}, {green}, {blue}, {opacity:.3f})"


SYMBOLS = ("circle", "square", "diamond", "x", "cross", "triangle-up")
"""Markers for series that must differ in more than colour."""

PLOTLY_CONFIG = {"showSendToCloud": False, "displaylogo": False, "responsive": True}
PLOTLY_CONFIG |= {"modeBarButtonsToRemove": ["lasso2d", "select2d"]}
"""Options of plotly's mode bar: no upload, no logo."""

SMALL = {"size": 11}
CLEAR = "rgba(0, 0, 0, 0)"
_AXIS = {"gridcolor": GRID, "linecolor": AXIS, "zerolinecolor": AXIS, "tickfont": SMALL}
STEP = {"title": {"text": "optimiser step", "font": SMALL, "standoff": 4}}
STEP |= {"showspikes": False, "unifiedhovertitle": {"text": "step %{x}"}}
LEGEND = {"orientation": "h", "bgcolor": CLEAR, "font": SMALL}
STYLE = {
    "xaxis": _AXIS | STEP | {"showline": True, "zeroline": False, "nticks": 7},
    "yaxis": _AXIS | {"nticks": 6, "title": {"font": SMALL, "standoff": 6}},
    "annotationdefaults": {"showarrow": False, "yanchor": "bottom", "font": SMALL},
    "shapedefaults": {"type": "line", "line": {"color": TEXT, "width": 1, "dash": "2px,2px"}},
    "font": {"color": TEXT, "size": 12, "family": "system-ui, sans-serif"},
    **dict.fromkeys(("paper_bgcolor", "plot_bgcolor"), CLEAR),
    "modebar": {"bgcolor": CLEAR, "color": AXIS, "activecolor": TEXT},
    "hovermode": "x unified",
    "hoverlabel": {"bgcolor": "#24292f", "font": {"color": "#f0f3f6"}},
}


def blank(height: int) -> go.Figure:
    """An empty one-panel figure in the shared style, with its legend above the panel.

    Args:
        height: Height in pixels.
    """
    figure = go.Figure(layout={"template": {"layout": STYLE}, "height": height})
    above = LEGEND | {"y": 1.02, "yanchor": "bottom"}
    return figure.update_layout(legend=above, margin={"l": 64, "r": 20, "t": 56, "b": 50})


def line(figure: go.Figure, x, y, name: str, colour: str, dash: str = "solid") -> None:
    """Add a line in the shared style."""
    look = {"color": colour, "width": 2, "dash": dash}
    figure.add_scatter(x=np.asarray(x), y=np.asarray(y), mode="lines", line=look, name=name)
