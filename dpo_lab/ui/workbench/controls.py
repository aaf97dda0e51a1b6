"""Workbench controls: a labelled input for every setting, with explanation and error message."""

from __future__ import annotations

import types
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import ipywidgets as widgets

from dpo_lab.data.builtin import BUILTIN as BUILTIN_DATA
from dpo_lab.models.builtin import BUILTIN_MODELS
from dpo_lab.objective.registry import LOSSES, SUMS
from dpo_lab.training.config import TrainConfig, setting_texts
from dpo_lab.ui.html.tables import escaped
from dpo_lab.ui.workbench.state import WorkbenchState

MAIN = ("model", "data", "method", "loss", "beta", "learning_rate")
MAIN += ("steps", "batch_pairs", "lora_rank", "seed", "eval_every")
LABELS = {
    "beta": "β (beta)",
    "batch_pairs": "pairs per batch",
    "lora_rank": "LoRA rank",
    "eval_every": "evaluate every",
}
EMPTY = {"steps": "one epoch", "lora_rank": "off: all weights"}
# Base-10 exponents of the ends, and the number format.
_SLIDERS = {"beta": (-2, 1, ".3g"), "learning_rate": (-7, -1, ".1e")}
_CHOICES = {"loss": (*LOSSES, *SUMS)}
_SUGGESTIONS = {"model": tuple(BUILTIN_MODELS), "data": tuple(BUILTIN_DATA)}
_KINDS = {int: "a whole number", float: "a number"}


class Control:
    """A setting of the workbench as a labelled widget, kept in step with the state.

    Args:
        state: The workbench's settings.
        field: Name of the setting.

    Attributes:
        value: The input widget.
        typed: The text box beside a slider; none for other settings.
        view: Label, input and error message.
    """

    def __init__(self, state: WorkbenchState, field: str):
        self.state, self.field = state, field
        self.kind, self.optional = _kind(field)
        explanation = setting_texts()[field]
        label = LABELS.get(field, field.replace("_", " "))
        title = widgets.HTML(f"<label title='{escaped(explanation)}'>{escaped(label)}</label>")
        self.value = self._widget(explanation)
        self.value.add_class(f"dpo-{field.replace('_', '-')}")
        self.problem = widgets.HTML().add_class("dpo-problem")
        self.typed = self._typed_box(explanation) if field in _SLIDERS else None
        entry = widgets.HBox([self.value, self.typed]) if self.typed else self.value
        self.view = widgets.VBox([title, entry, self.problem])
        self.view.add_class("dpo-control").add_class(f"dpo-set-{field.replace('_', '-')}")
        self._show()
        self.value.observe(self._entered, "value")
        state.observe(self._show, ["config", "problems"])

    def _widget(self, explanation: str) -> widgets.Widget:
        shared = {"tooltip": explanation, "layout": widgets.Layout(width="auto")}
        if self.field in _SLIDERS:
            low, high, style = _SLIDERS[self.field]
            shared |= {"base": 10, "min": low, "max": high, "step": 0.05, "readout_format": style}
            return widgets.FloatLogSlider(continuous_update=False, **shared)
        if self.field in _SUGGESTIONS:
            options = _SUGGESTIONS[self.field]
            return widgets.Combobox(options=options, continuous_update=False, **shared)
        if self.kind is bool and not self.optional:
            return widgets.Checkbox(indent=False, **shared)
        choices = _CHOICES.get(self.field) or (get_args(self.kind) if _literal(self.kind) else None)
        if self.kind is bool:
            choices = (("yes", True), ("no", False))
        if choices and self.optional:
            pairs = [each if isinstance(each, tuple) else (each, each) for each in choices]
            choices = (("default", None), *pairs)
        if choices:
            return widgets.Dropdown(options=choices, **shared)
        default = EMPTY.get(self.field, "default") if self.optional else ""
        return widgets.Text(continuous_update=False, placeholder=default, **shared)

    def _typed_box(self, explanation: str) -> widgets.Text:
        # A number typed into the slider's own readout is clamped to the range without a message.
        low, high, _ = _SLIDERS[self.field]
        tip = f"{explanation} Type a number from {10.0**low:g} to {10.0**high:g}."
        box = widgets.Text(continuous_update=False, tooltip=tip)
        box.add_class("dpo-typed").add_class(f"dpo-{self.field.replace('_', '-')}-typed")
        box.observe(self._typed_in, "value")
        return box

    def _typed_in(self, change) -> None:
        """From the text box to the state; a value outside the slider's range is refused."""
        low, high, _ = _SLIDERS[self.field]
        if change["new"] == self._number():
            self.state.set(**{self.field: getattr(self.state.config, self.field)})
            return
        try:
            value = float(change["new"])
        except ValueError:
            self.state.refuse(self.field, f"{self.field}={change['new']}: must be a number.")
            return
        if not 10.0**low <= value <= 10.0**high:
            self.state.refuse(
                self.field,
                f"{self.field}={value:g}: the slider goes from {10.0**low:g} to {10.0**high:g}. "
                "Type a number between them, or set it from code.",
            )
            return
        self.state.set(**{self.field: value})

    def _number(self) -> str:
        """A slider's value as its text box shows it."""
        return f"{self.state.value(self.field):.4g}"

    def _entered(self, change) -> None:
        """From the widget to the state, unless the state set the value."""
        if change["new"] == self._shown(self.state.value(self.field)):
            self.state.set(**{self.field: getattr(self.state.config, self.field)})
            return
        try:
            value = self._parsed(change["new"])
        except ValueError:
            words = f"{self.field}={change['new']}: must be {_KINDS[self.kind]}."
            self.state.refuse(self.field, words)
            return
        self.state.set(**{self.field: value})

    def _parsed(self, shown: Any) -> Any:
        if not isinstance(shown, str) or _literal(self.kind) or self.kind is str:
            return (shown.strip() or None) if isinstance(shown, str) and self.optional else shown
        text = shown.strip()
        if not text and self.optional:
            return None
        if self.kind in _KINDS:
            return self.kind(text)
        return tuple(part.strip() for part in text.split(",") if part.strip())

    def _shown(self, value: Any) -> Any:
        """A configuration value in the form that its widget holds."""
        if self.field in _SLIDERS:
            low, high, _ = _SLIDERS[self.field]
            return min(max(value, 10.0**low), 10.0**high)
        if isinstance(self.value, widgets.Text):
            if isinstance(value, tuple):
                return ", ".join(value)
            return "" if value is None else f"{value:g}" if self.kind is float else str(value)
        return value

    def _show(self, change=None) -> None:
        """From the state to the widget; a refused value stays so that it can be corrected."""
        words = self.state.problems.get(self.field)
        self.problem.value = escaped(words) if words else ""
        if not words:
            shown = self._shown(self.state.value(self.field))
            if self.value.value != shown:
                self.value.value = shown
            if self.typed:
                self.typed.value = self._number()


def setting_names() -> list[str]:
    """Settings that fit a single input: the most used ones first, then the others."""
    every = [field.name for field in fields(TrainConfig)]
    return [*MAIN, *(f for f in every if f not in MAIN and get_origin(_kind(f)[0]) is not dict)]


def _literal(kind: Any) -> bool:
    return get_origin(kind) is Literal


@cache
def _types() -> dict[str, Any]:
    return get_type_hints(TrainConfig, include_extras=False)


def _kind(field: str) -> tuple[Any, bool]:
    """A setting's type without `None`, and whether it may be `None`."""
    kind = _types()[field]
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, types.UnionType):
        parts = [part for part in get_args(kind) if part is not type(None)]
        return parts[0], True
    return kind, False
