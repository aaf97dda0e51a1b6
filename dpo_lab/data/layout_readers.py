"""Readers of public layouts: one row to rows with the lab's own columns.

Each takes a row, and which of several ranked responses are compared; it raises `UnusableRow` if the
row has something else in a column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dpo_lab.data.problems import UnusableRow
from dpo_lab.data.ranked import RankedPairs, ranked_rows, scores_of_ranks
from dpo_lab.data.scores import SCORES
from dpo_lab.data.thumbs import row_of_thumb

Row = Mapping[str, Any]
Rows = list[dict[str, Any]]
Reader = Callable[[Row, RankedPairs], Rows]
PAIR = ("chosen", "rejected")


def _without(row: Row, *used: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in used}


def renamed(**names: str) -> Reader:
    """A reader that gives columns other names: new one = old one."""

    def read(row: Row, pairs: RankedPairs) -> Rows:
        rest = _without(row, *names.values(), "messages")
        return [{**rest, **{new: row[old] for new, old in names.items()}}]

    return read


def scored_as(chosen: str, rejected: str) -> Reader:
    """A reader of scores in these two columns."""
    return renamed(score_chosen=chosen, score_rejected=rejected)


def _two(
    row: Row, used: Sequence[str], prompt: Any, first: Any, second: Any, strength: float
) -> Rows:
    """Two responses, of which the second is better by a strength; a tie at 0."""
    better, worse = (second, first) if strength > 0 else (first, second)
    made = {"prompt": prompt, "chosen": better, "rejected": worse}
    return [_without(row, *used) | made | dict(zip(SCORES, (abs(strength), 0.0), strict=True))]


def _strength(row: Row, column: str) -> float:
    try:
        return float(row[column])
    except (TypeError, ValueError):
        raise UnusableRow(column, "wrong type", f"{row[column]!r:.40} is no number") from None


def helpsteer2(row: Row, pairs: RankedPairs) -> Rows:
    """HelpSteer2: a strength from -3, the first is much better, to 3, the second is."""
    names = ("prompt", "response_1", "response_2", "preference_strength")
    prompt, first, second, _ = (row[name] for name in names)
    return _two(row, names, prompt, first, second, _strength(row, names[3]))


def helpsteer3(row: Row, pairs: RankedPairs) -> Rows:
    """HelpSteer3: the same, of a conversation."""
    names = ("context", "response1", "response2", "overall_preference")
    context, first, second, _ = (row[name] for name in names)
    first, second = ([{"role": "assistant", "content": text}] for text in (first, second))
    return _two(row, names, context, first, second, _strength(row, names[3]))


def shp(row: Row, pairs: RankedPairs) -> Rows:
    """SHP: two answers to a post, and the votes for each."""
    names = ("history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B")
    first, second = row["human_ref_A"], row["human_ref_B"]
    scores = row.get("score_A"), row.get("score_B")
    if _strength(row, "labels"):  # 1 where A is preferred
        made, scores = {"chosen": first, "rejected": second}, scores
    else:
        made, scores = {"chosen": second, "rejected": first}, scores[::-1]
    scored = dict(zip(SCORES, scores, strict=True)) if None not in scores else {}
    return [_without(row, *names) | {"prompt": row["history"]} | made | scored]


def safe_rlhf(row: Row, pairs: RankedPairs) -> Rows:
    """PKU-SafeRLHF: two responses, and the number of the more helpful one."""
    names = ("response_0", "response_1", "better_response_id")
    better = int(_strength(row, "better_response_id"))
    if better not in (0, 1):
        raise UnusableRow(names[2], "wrong type", f"{better} is neither 0 nor 1")
    sides = {"chosen": row[f"response_{better}"], "rejected": row[f"response_{1 - better}"]}
    return [_without(row, *names) | sides]


def with_system(question: str) -> Reader:
    """Orca's: a system message, which may be empty, and a question."""

    def read(row: Row, pairs: RankedPairs) -> Rows:
        system, rest = row["system"], _without(row, "system", question)
        if isinstance(rating := row.get("rating"), Sequence) and len(rating) == 2:
            # Of a tie, the two were put in either order.
            rest = _without(rest, "rating") | dict(
                zip(SCORES, sorted(rating, reverse=True), strict=True)
            )
        if not str(system).strip():
            return [rest | {"prompt": row[question]}]
        said = {"system": system, "user": row[question]}
        prompt = [{"role": role, "content": content} for role, content in said.items()]
        sides = {
            side: [{"role": "assistant", "content": row[side]}]
            for side in PAIR
            if isinstance(row[side], str)
        }
        return [rest | {"prompt": prompt} | sides]

    return read


def alpaca(row: Row, pairs: RankedPairs) -> Rows:
    """An instruction, and its input on the next line if it has one."""
    more = row.get("input")
    prompt = "\n".join([row["instruction"], more] if more else [row["instruction"]])
    return [_without(row, "instruction", "input") | {"prompt": prompt}]


def alpaca_before(row: Row, pairs: RankedPairs) -> Rows:
    """The same with both responses in one list, the better one first."""
    chosen, rejected = row["output"]
    return alpaca(_without(row, "output") | {"chosen": chosen, "rejected": rejected}, pairs)


def ranked_lists(prompt: str, responses: str, scores: str, ranks: bool = False) -> Reader:
    """Lists of responses and of their scores or ranks, in these columns."""

    def read(row: Row, pairs: RankedPairs) -> Rows:
        rest = _without(row, prompt, responses, scores, *PAIR, *SCORES) | {"prompt": row[prompt]}
        numbers = scores_of_ranks(scores, row[scores]) if ranks else row[scores]
        return ranked_rows(rest, responses, row[responses], numbers, pairs)

    return read


def listed(prompt: str, column: str, response: str, score: str, ranks: bool = False) -> Reader:
    """One list of objects, each with a response and its score or rank."""

    def read(row: Row, pairs: RankedPairs) -> Rows:
        items = row[column]
        if not isinstance(items, Sequence) or not all(isinstance(i, Mapping) for i in items):
            raise UnusableRow(column, "wrong type", f"no list of objects with {response!r}")
        responses, scores = ([item.get(name) for item in items] for name in (response, score))
        numbers = scores_of_ranks(column, scores) if ranks else scores
        rest = _without(row, prompt, column) | {"prompt": row[prompt]}
        return ranked_rows(rest, column, responses, numbers, pairs)

    return read


def thumb(*thumb: str) -> Reader:
    """A prompt, a response and its thumb, these in two columns."""
    return lambda row, pairs: [row_of_thumb(row, *thumb)]


def alpaca_thumb(row: Row, pairs: RankedPairs) -> Rows:
    """An instruction, an output, and whether it is good."""
    (made,) = alpaca(row, pairs)
    return [row_of_thumb(made, "output", "kto_tag")]


def conversation_thumb(column: str, label: str) -> Reader:
    """A conversation, the last message of which is the response."""

    def read(row: Row, pairs: RankedPairs) -> Rows:
        messages = row[column]
        if not isinstance(messages, Sequence) or isinstance(messages, str) or len(messages) < 2:
            raise UnusableRow(column, "wrong type", "no list of a prompt's messages and an answer")
        made = {"prompt": messages[:-1], column: [messages[-1]]}
        return [row_of_thumb({**row, **made}, column, label)]

    return read
