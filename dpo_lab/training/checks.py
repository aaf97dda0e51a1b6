"""Checks of settings: ranges of numbers, dates, types of values in `config.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def check_date(name: str, value: str) -> None:
    """Raise for text that is not a date.

    Raises:
        ValueError: If it is not written as 2026-01-31, or there is no such day.
    """
    try:
        written = date.fromisoformat(value).isoformat()
        if value != written:  # Python also reads 20260131 and 2026-W05-6
            raise ValueError(f"{written} in another format")
    except ValueError as error:
        what = f"{name}={value!r}"
        raise ValueError(f"{what}: not a date ({error}). Write it as 2026-01-31.") from None


def check_quantize(quantize: str | None, lora_rank: int | None) -> None:
    """Raise if quantised weights would be trained themselves.

    Raises:
        ValueError: If there is no adapter.
    """
    if quantize is not None and lora_rank is None:
        raise ValueError(
            f"quantize={quantize!r}: quantised weights cannot be trained. Give lora_rank "
            "(--lora-rank 16), which trains an adapter beside them."
        )


def check_range(name: str, value: float | None, low: float, strict: bool) -> None:
    """Raise for a number out of range; None passes.

    Raises:
        ValueError: If it is not finite, below `low`, or equal to `low` if `strict`.
    """
    if value is None:
        return
    if not math.isfinite(value) or value < low or (strict and value == low):
        bound = f"> {low}" if strict else f">= {low}"
        raise ValueError(f"{name}={value}: must be a finite number {bound}.")


def check_kinds(config: type, values: Mapping[str, Any]) -> None:
    """Raise for values whose type does not match their field.

    Args:
        config: A dataclass.
        values: JSON values by the name of the field.

    Raises:
        ValueError: Naming the first value of a wrong type.
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
    """The types that each field may have in a file, each with its description."""
    kinds = {}
    for name, hint in get_type_hints(config).items():
        options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        types = [str if get_origin(t) is Literal else get_origin(t) or t for t in options]
        kinds[name] = {kind: _WORDS[kind] for kind in types}
        if float in types:
            kinds[name] = {int: "a number"} | kinds[name]
    return kinds


_WORDS = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false",
    dict: "an object", tuple: "a list", NoneType: "null",
}  # fmt: skip
