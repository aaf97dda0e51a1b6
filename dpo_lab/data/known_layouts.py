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

from dpo_lab.data.layout_readers import (
    PAIR,
    Reader,
    Row,
    alpaca,
    alpaca_before,
    alpaca_thumb,
    conversation_thumb,
    helpsteer2,
    helpsteer3,
    listed,
    ranked_lists,
    renamed,
    safe_rlhf,
    scored_as,
    shp,
    thumb,
    with_system,
)
from dpo_lab.data.messages import is_message
from dpo_lab.data.problems import UnusableRow
from dpo_lab.data.ranked import RankedPairs
from dpo_lab.data.scores import SCORES
from dpo_lab.data.thumbs import THUMB

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
    read: Reader | None = None
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
                ("prompt", "response_1", "response_2", "preference_strength"), helpsteer2),
    KnownLayout("HelpSteer3 preferences",
                ("context", "response1", "response2", "overall_preference"), helpsteer3),
    KnownLayout("SHP", ("history", "human_ref_A", "human_ref_B", "labels"), shp),
    KnownLayout("PKU-SafeRLHF, the more helpful response",
                ("prompt", "response_0", "response_1", "better_response_id"), safe_rlhf),
    KnownLayout("UltraFeedback, four responses", ("instruction", "completions"),
                listed("instruction", "completions", "response", "overall_score"),
                PAIR, fits=_holds("completions", "response", "overall_score")),
    KnownLayout("Nectar, ranked responses", ("prompt", "answers"),
                listed("prompt", "answers", "answer", "rank", ranks=True),
                PAIR, fits=_holds("answers", "answer", "rank")),
    KnownLayout("Argilla UltraFeedback, mean ratings",
                ("instruction", "chosen_response", "rejected_response", "chosen_avg_rating",
                 "rejected_avg_rating"),
                renamed(prompt="instruction", chosen="chosen_response",
                         rejected="rejected_response", score_chosen="chosen_avg_rating",
                         score_rejected="rejected_avg_rating")),
    KnownLayout("Argilla preferences, ratings", (*PAIR, "chosen-rating", "rejected-rating"),
                scored_as("chosen-rating", "rejected-rating")),
    KnownLayout("Argilla preferences, ratings", (*PAIR, "chosen_rating", "rejected_rating"),
                scored_as("chosen_rating", "rejected_rating")),
    KnownLayout("Argilla preferences, ratings", (*PAIR, "rating_chosen", "rating_rejected"),
                scored_as("rating_chosen", "rating_rejected")),
    KnownLayout("distilabel, rated generations", ("instruction", "generations", "ratings"),
                ranked_lists("instruction", "generations", "ratings"), PAIR),
    KnownLayout("UltraFeedback binarized", (*OPEN, *SCORES, "messages"), renamed()),
    KnownLayout("Orca DPO pairs", ("system", "question", *PAIR), with_system("question"),
                ("prompt",)),
    KnownLayout("Argilla Orca DPO pairs", ("system", "input", *PAIR), with_system("input"),
                ("prompt", "instruction")),
    KnownLayout("LLaMA-Factory preferences (Alpaca)", ("instruction", *PAIR), alpaca,
                ("prompt", "system", "history")),
    KnownLayout("LLaMA-Factory preferences (Alpaca, before 2024)", ("instruction", "output"),
                alpaca_before, ("prompt", *PAIR), fits=_is_two_texts),
    KnownLayout("ShareGPT ranking", ("conversations", *PAIR), absent=("prompt",),
                fits=_is_sharegpt),
    KnownLayout("HH-RLHF", PAIR, only=True, fits=_is_hh),
    KnownLayout("LLaMA-Factory thumbs (Alpaca)", ("instruction", "output", "kto_tag"),
                alpaca_thumb, (*PAIR, "prompt"), thumb=("output", "kto_tag")),
    KnownLayout("LLaMA-Factory thumbs (ShareGPT)", ("conversations", "kto_tag"),
                conversation_thumb("conversations", "kto_tag"), (*PAIR, "prompt"),
                thumb=("conversations", "kto_tag")),
    KnownLayout("thumbs (messages, label)", ("messages", "label"),
                conversation_thumb("messages", "label"), (*PAIR, "prompt"),
                thumb=("messages", "label")),
    KnownLayout("thumbs (prompt, completion, label)", ("prompt", *THUMB), thumb(*THUMB), PAIR,
                thumb=THUMB),
    KnownLayout("ranked responses", ("prompt", "responses", "scores"),
                ranked_lists("prompt", "responses", "scores"), PAIR),
    KnownLayout("ranked responses", ("prompt", "responses", "ranks"),
                ranked_lists("prompt", "responses", "ranks", ranks=True), PAIR),
)  # fmt: skip
"""Every known layout; the first that matches counts."""
