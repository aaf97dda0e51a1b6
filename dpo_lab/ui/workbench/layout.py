"""Layout and CSS of the workbench."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

import ipywidgets as widgets

from dpo_lab.ui.figures.style import CSS_COLOURS
from dpo_lab.ui.workbench.controls import MAIN, Control
from dpo_lab.ui.workbench.tracker_choice import TrackerChoice


def page(controls: Mapping[str, Control | TrackerChoice], *parts: widgets.Widget) -> widgets.Widget:
    """The workbench as one widget: main controls, folded advanced ones, then the other parts."""
    views = {name: control.view for name, control in controls.items()}
    main = widgets.HBox([views.pop(name) for name in MAIN]).add_class("dpo-grid")
    more = widgets.HBox(list(views.values())).add_class("dpo-grid")
    folded = widgets.Accordion([more], titles=["Advanced"])
    return widgets.VBox([style(), main, folded, *parts]).add_class("dpo-workbench")


def style() -> widgets.HTML:
    """The CSS of the workbench, in the colours of JupyterLab's theme."""
    css = files("dpo_lab.ui.workbench").joinpath("workbench.css").read_text()
    return widgets.HTML(f"<style>{CSS_COLOURS}{css}</style>").add_class("dpo-style")
