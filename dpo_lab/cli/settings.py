"""The settings of a run as options of commands: in groups, each with its help and its default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro

from dpo_lab.training.config import TrainConfig, setting_texts

GROUPS = {
    "model": "data",
    "loss": "loss",
    "steps": "optimiser",
    "lora_rank": "LoRA",
    "max_length": "rows",
    "seed": "evaluation",
    "device": "device",
}
"""Title of each group by its first setting; the settings that follow belong to it too."""


@dataclass(frozen=True)
class Setting:
    """A field of `TrainConfig` as an option.

    Attributes:
        name: The field.
        kind: Its type.
        aliases: Further names of the option.
        text: What it is.
        default: Its value if it is not given.
        group: Title of its group.
    """

    name: str
    kind: Any
    aliases: tuple[str, ...]
    text: str
    default: Any
    group: str

    @property
    def plain(self) -> bool:
        """Whether it is one value, no list or mapping."""
        parts = get_args(self.kind)
        return get_origin(self.kind) not in (dict, tuple) and tuple not in map(get_origin, parts)

    def option(self, several: bool = False) -> Any:
        """Its annotation for tyro; of several values if asked."""
        told = {"help": self.text, "aliases": self.aliases}
        if self.default is None:
            told["help_behavior_hint"] = "" if "default" in self.text else "(default: not given)"
        return Annotated[tuple[self.kind, ...] if several else self.kind, tyro.conf.arg(**told)]


def settings() -> list[Setting]:
    """Every field of `TrainConfig`, in its order."""
    hints = get_type_hints(TrainConfig, include_extras=True)
    texts = setting_texts()
    found, group = [], ""
    for each in fields(TrainConfig):
        group = GROUPS.get(each.name, group)
        kind, aliases = hints[each.name], ()
        if get_origin(kind) is Annotated:
            kind, *extra = get_args(kind)
            aliases = tuple(alias for some in extra for alias in some.aliases or ())
        default = each.default if each.default is not MISSING else each.default_factory()
        found.append(Setting(each.name, kind, aliases, texts[each.name], default, group))
    return found


def command(
    name: str,
    about: str,
    call: Callable[[Any], None],
    own: list[tuple],
    values: dict[str, Any] | None = None,
    several: bool = False,
) -> type:
    """A command that takes every setting, by groups.

    Args:
        name: Of the class.
        about: What it does, with examples.
        call: What it does when it is called; `given` tells it what the options were.
        own: Its own options, each name, annotation, default.
        values: Defaults in place of `TrainConfig`'s.
        several: Whether a setting takes several values.
    """
    groups: dict[str, list[tuple]] = {}
    for each in settings():
        many = several and each.plain
        default = (values or {}).get(each.name, each.default)
        default = (default,) if many else default
        one = (each.name, each.option(many), field(default_factory=lambda kept=default: kept))
        groups.setdefault(each.group, []).append(one)
    boxes = []
    for title, some in groups.items():
        box = make_dataclass(title.title(), some, frozen=True)
        box.__doc__ = ""
        boxes.append((title, box, field(default_factory=box)))
    own = [(option, kind, field(default=default)) for option, kind, default in own]
    made = make_dataclass(name, own + boxes, frozen=True, namespace={"__call__": call})
    made.__doc__ = about
    return made


def given(made: Any) -> dict[str, Any]:
    """Every setting of such a command by its name, with its value."""
    boxes = [getattr(made, title) for title in GROUPS.values()]
    return {each.name: getattr(box, each.name) for box in boxes for each in fields(box)}
