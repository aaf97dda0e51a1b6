"""Checks of settings: a number in its range, a date, a value of the right kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints


def check_date(name: str, value: str) -> None:
    """Refuse what is no date.

    Raises:
        ValueError: If it is not written as 2026-01-31, or there is no such day.
    """
    try:
        written = date.fromisoformat(value).isoformat()
        if value != written:  # Python reads 20260131 and 2026-W05-6, too
            raise ValueError(f"written otherwise, {written}")
    except ValueError as error:
        raise ValueError(f"{name}={value!r}: no date ({error}). Write it as 2026-01-31.") from None


def check_range(name: str, value: float | None, low: float, strict: bool) -> None:
    """Refuse a number out of its range; none passes.

    Raises:
        ValueError: If it is not finite, below `low`, or equal to it where `strict`.
    """
    if value is None:
        return
    if not math.isfinite(value) or value < low or (strict and value == low):
        bound = f"> {low}" if strict else f">= {low}"
        raise ValueError(f"{name}={value}: must be a finite number {bound}.")


def check_kinds(config: type, values: Mapping[str, Any]) -> None:
    """Refuse values that are not of the kind that their fields have.

    Args:
        config: A dataclass.
        values: By the name of the field, as a file holds them.

    Raises:
        ValueError: With the first that is of another kind.
    """
    for name, value in values.items():
        kinds = _kinds(config)[name]
        if type(value) not in kinds:
            raise ValueError(
                f"config: {name}={value!r} is of the wrong kind. It must be "
                f"{' or '.join(dict.fromkeys(kinds.values()))}."
            )


@cache
def _kinds(config: type) -> dict[str, dict[type, str]]:
    """What the value of each field may be in a file, each kind in words."""
    kinds = {}
    for name, hint in get_type_hints(config).items():
        options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        found = [str if get_origin(one) is Literal else get_origin(one) or one for one in options]
        kinds[name] = {kind: _WORDS[kind] for kind in found}
        if float in found:
            kinds[name] = {int: "a number"} | kinds[name]
    return kinds


_WORDS = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false",
    dict: "an object", tuple: "a list", NoneType: "null",
}  # fmt: skip
