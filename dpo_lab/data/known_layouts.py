"""Public layouts of preference data, recognised by their columns and brought to one shape.

A layout turns a row into rows with the lab's own columns: `prompt`, `chosen`, `rejected` and, where
it has them, `score_chosen` and `score_rejected`; several for ranked responses. Columns that it does
not use stay, and are reported. Names that the user gives for columns always win: no layout is
looked for then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpo_lab.data.messages import is_message
from dpo_lab.data.problems import UnusableRow
from dpo_lab.data.ranked import RankedPairs, ranked_rows, scores_of_ranks
from dpo_lab.data.scores import SCORES
from dpo_lab.data.thumbs import THUMB, row_of_thumb

Row = Mapping[str, Any]
PAIR = ("chosen", "rejected")
HH_TURN = "\n\nHuman:"


@dataclass(frozen=True)
class KnownLayout:
    """A layout in which people publish preference data.

    Attributes:
        name: What it is called in the report.
        columns: The columns that it is recognised by.
        read: One row to the rows that the lab reads; None if it reads them as they are.
        absent: Columns that such data has not.
        only: Whether there is no other column.
        fits: Whether the first row's values are of this layout, beyond its columns.
        thumb: The columns of a response and of its thumb, if rows are single responses.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[Row, RankedPairs], list[dict[str, Any]]] | None = None
    absent: tuple[str, ...] = ()
    only: bool = False
    fits: Callable[[Row], bool] = lambda row: True
    thumb: tuple[str, str] | None = None

    def matches(self, row: Row) -> bool:
        """Whether a row looks like it."""
        has = set(self.columns) <= set(row) and not set(self.absent) & set(row)
        return has and (not self.only or len(row) == len(self.columns)) and self.fits(row)

    def rows(self, row: Any, pairs: RankedPairs = "all") -> list[Any]:
        """What the lab reads of one row.

        Raises:
            UnusableRow: If the row lacks one of the columns, or has something else in it.
        """
        if self.read is None or not isinstance(row, Mapping):
            return [row]
        for column in self.columns:
            if row.get(column) is None:
                raise UnusableRow(column, "missing", f"the rows are read as {self.name}")
        return self.read(row, pairs)


OTHER = (*THUMB, "responses", "scores", "ranks")
"""Columns that a caller may name besides those of a pair."""


def own_names(columns: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Columns by the lab's names, if the caller has named some that no pair has.

    Args:
        columns: Names in the source, by the lab's.

    Returns:
        Names in rows whose columns are renamed, by the lab's; and what to rename, from source to
        lab: nothing, unless a column of `OTHER` is named.
    """
    pair = {name: given for name, given in columns.items() if name not in OTHER}
    if all(columns.get(name, name) == name for name in OTHER):
        return pair, {}
    return {name: name for name in pair}, {given: name for name, given in columns.items()}


def find_layout(row: Any) -> KnownLayout | None:
    """The layout that a row is in, if it is a known one other than the lab's own."""
    if not isinstance(row, Mapping):
        return None
    return next((layout for layout in LAYOUTS if layout.matches(row)), None)


def _without(row: Row, *used: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in used}


def _renamed(**names: str) -> Callable[[Row, RankedPairs], list[dict[str, Any]]]:
    """A reader that gives columns other names: new one = old one."""

    def read(row: Row, pairs: RankedPairs) -> list[dict[str, Any]]:
        rest = _without(row, *names.values(), "messages")
        return [{**rest, **{new: row[old] for new, old in names.items()}}]

    return read


def _scored_as(chosen: str, rejected: str) -> Callable[[Row, RankedPairs], list[dict[str, Any]]]:
    return _renamed(score_chosen=chosen, score_rejected=rejected)


def _two(
    row: Row, used: Sequence[str], prompt: Any, first: Any, second: Any, strength: float
) -> list[dict[str, Any]]:
    """Two responses, of which the second is better by a strength; a tie at 0."""
    better, worse = (second, first) if strength > 0 else (first, second)
    made = {"prompt": prompt, "chosen": better, "rejected": worse}
    return [_without(row, *used) | made | dict(zip(SCORES, (abs(strength), 0.0), strict=True))]


def _strength(row: Row, column: str) -> float:
    try:
        return float(row[column])
    except (TypeError, ValueError):
        raise UnusableRow(column, "wrong type", f"{row[column]!r:.40} is no number") from None


def _helpsteer2(row: Row, pairs: RankedPairs) -> list[dict[str, Any]]:
    names = ("prompt", "response_1", "response_2", "preference_strength")
    prompt, first, second, _ = (row[name] for name in names)
    return _two(row, names, prompt, first, second, _strength(row, names[3]))


def _helpsteer3(row: Row, pairs: RankedPairs) -> list[dict[str, Any]]:
    names = ("context", "response1", "response2", "overall_preference")
    context, first, second, _ = (row[name] for name in names)
    first, second = ([{"role": "assistant", "content": text}] for text in (first, second))
    return _two(row, names, context, first, second, _strength(row, names[3]))


def _shp(row: Row, pairs: RankedPairs) -> list[dict[str, Any]]:
    names = ("history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B")
    first, second = row["human_ref_A"], row["human_ref_B"]
    scores = row.get("score_A"), row.get("score_B")
    if _strength(row, "labels"):  # 1 where A is preferred
        made, scores = {"chosen": first, "rejected": second}, scores
    else:
        made, scores = {"chosen": second, "rejected": first}, scores[::-1]
    scored = dict(zip(SCORES, scores, strict=True)) if None not in scores else {}
    return [_without(row, *names) | {"prompt": row["history"]} | made | scored]


def _safe_rlhf(row: Row, pairs: RankedPairs) -> list[dict[str, Any]]:
    names = ("response_0", "response_1", "better_response_id")
    better = int(_strength(row, "better_response_id"))
    if better not in (0, 1):
        raise UnusableRow(names[2], "wrong type", f"{better} is neither 0 nor 1")
    sides = {"chosen": row[f"response_{better}"], "rejected": row[f"response_{1 - better}"]}
    return [_without(row, *names) | sides]


def _with_system(question: str) -> Callable[[Row, RankedPairs], list[dict[str, Any]]]:
    """Orca's: a system message, which may be empty, and a question."""

    def read(row: Row, pairs: RankedPairs) -> list[dict[str, Any]]:
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


def _alpaca(row: Row, pairs: RankedPairs) -> list[dict[str, Any]]:
    more = row.get("input")
    prompt = "\n".join([row["instruction"], more] if more else [row["instruction"]])
    return [_without(row, "instruction", "input") | {"prompt": prompt}]


def _alpaca_before(row: Row, pairs: RankedPairs) -> list[dict[str, Any]]:
    chosen, rejected = row["output"]
    return _alpaca(_without(row, "output") | {"chosen": chosen, "rejected": rejected}, pairs)


def _ranked(prompt: str, responses: str, scores: str, ranks: bool = False):
    """Lists of responses and of their scores or ranks, in these columns."""

    def read(row: Row, pairs: RankedPairs) -> list[dict[str, Any]]:
        rest = _without(row, prompt, responses, scores, *PAIR, *SCORES) | {"prompt": row[prompt]}
        numbers = scores_of_ranks(scores, row[scores]) if ranks else row[scores]
        return ranked_rows(rest, responses, row[responses], numbers, pairs)

    return read


def _listed(prompt: str, column: str, response: str, score: str, ranks: bool = False):
    """One list of objects, each with a response and its score or rank."""

    def read(row: Row, pairs: RankedPairs) -> list[dict[str, Any]]:
        items = row[column]
        if not isinstance(items, Sequence) or not all(isinstance(i, Mapping) for i in items):
            raise UnusableRow(column, "wrong type", f"no list of objects with {response!r}")
        responses, scores = ([item.get(name) for item in items] for name in (response, score))
        numbers = scores_of_ranks(column, scores) if ranks else scores
        rest = _without(row, prompt, column) | {"prompt": row[prompt]}
        return ranked_rows(rest, column, responses, numbers, pairs)

    return read


def _thumb(*thumb: str) -> Callable[[Row, RankedPairs], list[dict[str, Any]]]:
    """A prompt, a response and its thumb, these in two columns."""
    return lambda row, pairs: [row_of_thumb(row, *thumb)]


def _alpaca_thumb(row: Row, pairs: RankedPairs) -> list[dict[str, Any]]:
    (made,) = _alpaca(row, pairs)
    return [row_of_thumb(made, "output", "kto_tag")]


def _conversation_thumb(column: str, label: str):
    """A conversation, the last message of which is the response."""

    def read(row: Row, pairs: RankedPairs) -> list[dict[str, Any]]:
        messages = row[column]
        if not isinstance(messages, Sequence) or isinstance(messages, str) or len(messages) < 2:
            raise UnusableRow(column, "wrong type", "no list of a prompt's messages and an answer")
        made = {"prompt": messages[:-1], column: [messages[-1]]}
        return [row_of_thumb({**row, **made}, column, label)]

    return read


def _holds(column: str, *fields: str) -> Callable[[Row], bool]:
    """Whether a column is a list of objects with these fields."""

    def fits(row: Row) -> bool:
        items = row[column]
        first = items[0] if isinstance(items, Sequence) and len(items) else None
        return isinstance(first, Mapping) and set(fields) <= set(first)

    return fits


def _is_hh(row: Row) -> bool:
    return all(isinstance(row[side], str) and HH_TURN in row[side] for side in PAIR)


def _is_sharegpt(row: Row) -> bool:
    return is_message(row["chosen"]) and "from" in row["chosen"]


def _is_two_texts(row: Row) -> bool:
    output = row["output"]
    return isinstance(output, Sequence) and not isinstance(output, str) and len(output) == 2


OPEN = ("prompt", *PAIR)
LAYOUTS = (
    KnownLayout("HelpSteer2 preferences",
                ("prompt", "response_1", "response_2", "preference_strength"), _helpsteer2),
    KnownLayout("HelpSteer3 preferences",
                ("context", "response1", "response2", "overall_preference"), _helpsteer3),
    KnownLayout("SHP", ("history", "human_ref_A", "human_ref_B", "labels"), _shp),
    KnownLayout("PKU-SafeRLHF, the more helpful response",
                ("prompt", "response_0", "response_1", "better_response_id"), _safe_rlhf),
    KnownLayout("UltraFeedback, four responses", ("instruction", "completions"),
                _listed("instruction", "completions", "response", "overall_score"),
                PAIR, fits=_holds("completions", "response", "overall_score")),
    KnownLayout("Nectar, ranked responses", ("prompt", "answers"),
                _listed("prompt", "answers", "answer", "rank", ranks=True),
                PAIR, fits=_holds("answers", "answer", "rank")),
    KnownLayout("Argilla UltraFeedback, mean ratings",
                ("instruction", "chosen_response", "rejected_response", "chosen_avg_rating",
                 "rejected_avg_rating"),
                _renamed(prompt="instruction", chosen="chosen_response",
                         rejected="rejected_response", score_chosen="chosen_avg_rating",
                         score_rejected="rejected_avg_rating")),
    KnownLayout("Argilla preferences, ratings", (*PAIR, "chosen-rating", "rejected-rating"),
                _scored_as("chosen-rating", "rejected-rating")),
    KnownLayout("Argilla preferences, ratings", (*PAIR, "chosen_rating", "rejected_rating"),
                _scored_as("chosen_rating", "rejected_rating")),
    KnownLayout("Argilla preferences, ratings", (*PAIR, "rating_chosen", "rating_rejected"),
                _scored_as("rating_chosen", "rating_rejected")),
    KnownLayout("distilabel, rated generations", ("instruction", "generations", "ratings"),
                _ranked("instruction", "generations", "ratings"), PAIR),
    KnownLayout("UltraFeedback binarized", (*OPEN, *SCORES, "messages"), _renamed()),
    KnownLayout("Orca DPO pairs", ("system", "question", *PAIR), _with_system("question"),
                ("prompt",)),
    KnownLayout("Argilla Orca DPO pairs", ("system", "input", *PAIR), _with_system("input"),
                ("prompt", "instruction")),
    KnownLayout("LLaMA-Factory preferences (Alpaca)", ("instruction", *PAIR), _alpaca,
                ("prompt", "system", "history")),
    KnownLayout("LLaMA-Factory preferences (Alpaca, before 2024)", ("instruction", "output"),
                _alpaca_before, ("prompt", *PAIR), fits=_is_two_texts),
    KnownLayout("ShareGPT ranking", ("conversations", *PAIR), absent=("prompt",),
                fits=_is_sharegpt),
    KnownLayout("HH-RLHF", PAIR, only=True, fits=_is_hh),
    KnownLayout("LLaMA-Factory thumbs (Alpaca)", ("instruction", "output", "kto_tag"),
                _alpaca_thumb, (*PAIR, "prompt"), thumb=("output", "kto_tag")),
    KnownLayout("LLaMA-Factory thumbs (ShareGPT)", ("conversations", "kto_tag"),
                _conversation_thumb("conversations", "kto_tag"), (*PAIR, "prompt"),
                thumb=("conversations", "kto_tag")),
    KnownLayout("thumbs (messages, label)", ("messages", "label"),
                _conversation_thumb("messages", "label"), (*PAIR, "prompt"),
                thumb=("messages", "label")),
    KnownLayout("thumbs (prompt, completion, label)", ("prompt", *THUMB), _thumb(*THUMB), PAIR,
                thumb=THUMB),
    KnownLayout("ranked responses", ("prompt", "responses", "scores"),
                _ranked("prompt", "responses", "scores"), PAIR),
    KnownLayout("ranked responses", ("prompt", "responses", "ranks"),
                _ranked("prompt", "responses", "ranks", ranks=True), PAIR),
)  # fmt: skip
"""Every known layout; the first that matches counts."""
