"""The settings of a run as options of commands: in groups, each with its help and its default."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Annotated, Any, TypedDict, get_type_hints

import tyro

from dpo_lab.training.config import TrainConfig, setting_texts

GROUPS = {
    "model": "data",
    "method": "method",
    "loss": "loss",
    "steps": "optimiser",
    "lora_rank": "LoRA",
    "max_length": "rows",
    "seed": "evaluation",
    "device": "device",
}
"""Title of each group by its first setting; the settings that follow belong to it too."""
ALIASES = {"learning_rate": ("--lr",)}
"""Other names of options."""
DEFAULTS = vars(TrainConfig())
WHOLE = {name for name, value in DEFAULTS.items() if isinstance(value, tuple | dict)}
"""Settings that are a list or a mapping, of which a sweep takes one."""


def options(several: bool = False, names: Collection[str] = ()) -> Any:
    """Every setting as an option, by its group, for tyro: a setting that is not given is left out.

    Args:
        several: Whether a setting takes several values.
        names: The settings to offer, if not all.
    """
    kinds = get_type_hints(TrainConfig)
    groups: dict[str, dict[str, Any]] = {}
    title = ""
    for name, default in DEFAULTS.items():
        title, text, hint = GROUPS.get(name, title), setting_texts()[name], f"(default: {default})"
        if names and name not in names:
            continue
        if default in (None, (), {}):
            hint = "" if "default" in text else "(default: not given)"
        kind = tuple[kinds[name], ...] if several and name not in WHOLE else kinds[name]
        if isinstance(default, dict):  # of a bare mapping tyro asks how long its default is
            kind |= None
        shown = tyro.conf.arg(help=text, help_behavior_hint=hint, aliases=ALIASES.get(name))
        groups.setdefault(title, {})[name] = Annotated[kind, shown]
    boxes = {title: TypedDict(title, some, total=False) for title, some in groups.items()}
    return TypedDict("options", boxes)


Boxes = dict[str, dict[str, Any]]
Settings = Annotated[Boxes, tyro.conf.arg(name="", constructor_factory=options)]
SeveralSettings = Annotated[
    Boxes, tyro.conf.arg(name="", constructor_factory=partial(options, several=True))
]


def given(settings: Boxes) -> dict[str, Any]:
    """The settings that the command line names, with their values."""
    return {name: value for box in settings.values() for name, value in box.items()}
