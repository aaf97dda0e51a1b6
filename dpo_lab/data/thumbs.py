"""Single responses with a thumb up or down: read, taken from pairs, or paired up by prompt.

A single response is a pair with one side (see `Pair`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from dpo_lab.data.pairs import Pair, same_prompt
from dpo_lab.data.problems import RowProblem, UnusableRow
from dpo_lab.data.sampled import sampled_column

PairUp = Literal["all", "balanced"]
Thumbs = Literal["refuse", "keep"] | PairUp
PAIR_UP = get_args(PairUp)
"""`all`: every good response to a prompt beside every bad one; `balanced`: each in one pair."""

THUMB = ("completion", "label")
"""The columns of a response and of its thumb, in TRL's words."""
SIDE = {True: ("chosen", "rejected"), False: ("rejected", "chosen")}
_STAND_INS = ("(no other response)", "(no response beside it)")
_STAND_IN_MESSAGES = tuple([{"role": "assistant", "content": text}] for text in _STAND_INS)
# What stands beside a single response while it is read: another one than the response itself.
_WORDS = {
    True: ("true", "1", "yes", "up", "good", "desirable", "thumbs_up", "👍"),
    False: ("false", "0", "no", "down", "bad", "undesirable", "thumbs_down", "👎"),
}


def is_good(column: str, value: Any) -> bool:
    """A label as true or false, also one that is written as a number or a word.

    Raises:
        UnusableRow: If it is something else.
    """
    word = str(int(value) if isinstance(value, float) and value in (0.0, 1.0) else value)
    for good, words in _WORDS.items():
        if word.strip().lower() in words:
            return good
    if value is None or not word.strip():
        raise UnusableRow(column, "missing", "no thumb up or down")
    raise UnusableRow(column, "wrong type", f"{value!r:.40} is no label; write true or false")


def row_of_thumb(row: Mapping[str, Any], completion: str, label: str) -> dict[str, Any]:
    """A row of a response and its thumb as one of a pair, beside a stand-in.

    So it is read and checked as a pair is; `one_sided` takes the stand-in away.

    Args:
        row: The row.
        completion: Name of the response's column.
        label: Name of the thumb's column.

    Raises:
        UnusableRow: If the label is none.
    """
    response, (side, other) = row[completion], SIDE[is_good(label, row[label])]
    stand_ins = _STAND_INS if isinstance(response, str) else _STAND_IN_MESSAGES
    stand_in = next(some for some in stand_ins if some != response)
    used = {completion, label, sampled_column(completion)}
    rest = {name: value for name, value in row.items() if name not in used}
    sampled = row.get(sampled_column(completion))
    with_ids = {sampled_column(side): sampled} if sampled is not None else {}
    return {**rest, side: response, other: stand_in, **with_ids}


def one_sided(
    made: Pair | RowProblem, row: Mapping[str, Any], completion: str
) -> Pair | RowProblem:
    """What was made of a row of `row_of_thumb`, without the stand-in.

    Args:
        made: The pair, or what is wrong, which is then said of the response's own column.
        row: What `row_of_thumb` gave.
        completion: Name of the response's column.
    """
    bad = any(row["chosen"] is some for some in (*_STAND_INS, *_STAND_IN_MESSAGES))
    side, other = SIDE[not bad]
    if isinstance(made, RowProblem):
        return replace(made, column=completion) if made.column in (side, other) else made
    return replace(made, **{other: ""})


def taken_apart(pairs: Iterable[Pair]) -> list[Pair]:
    """Every pair as two single responses: its chosen one is good, its rejected one bad."""
    singles = []
    for pair in pairs:
        if pair.single:
            singles.append(pair)
            continue
        for number, other in enumerate(("rejected", "chosen")):
            gone = {other: "", f"{other}_sampled": None}
            part = 2 * pair.part + number
            singles.append(replace(pair, **gone, score_margin=None, part=part))
    return singles


def paired_up(pairs: Sequence[Pair], how: PairUp = "all") -> tuple[list[Pair], int]:
    """Pairs of the good and the bad responses to each prompt.

    Args:
        pairs: Single responses; others stay as they are.
        how: `all` pairs every good one with every bad one; `balanced` puts each into one pair at
            most, in their order.

    Returns:
        The pairs, by the row of the good response, and how many responses are in none.
    """
    sides: dict[str, tuple[list[Pair], list[Pair]]] = {}
    made = [pair for pair in pairs if not pair.single]
    for pair in pairs:
        if pair.single:
            ups, downs = sides.setdefault(same_prompt(pair.prompt), ([], []))
            (ups if pair.chosen else downs).append(pair)
    unused = 0
    for ups, downs in sides.values():
        fewer = min(len(ups), len(downs))
        if how == "all" and fewer:
            chosen = [(up, part, down) for up in ups for part, down in enumerate(downs)]
        else:
            chosen = [(up, 0, down) for up, down in zip(ups, downs, strict=False)]
            unused += len(ups) + len(downs) - 2 * fewer
        for up, part, down in chosen:
            if up.chosen != down.rejected:
                sampled = down.rejected_sampled
                made.append(
                    replace(up, rejected=down.rejected, rejected_sampled=sampled, part=part)
                )
    return sorted(made, key=lambda pair: pair.place), unused
