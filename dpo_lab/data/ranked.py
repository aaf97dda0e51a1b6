"""Several scored or ranked responses to one prompt become the pairs that they imply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from dpo_lab.data.problems import UnusableRow
from dpo_lab.data.scores import SCORES, as_score

RankedPairs = Literal["all", "best"]
RANKED_PAIRS = get_args(RankedPairs)
"""`all` compares every two responses, `best` only the best with each other one."""


def ranked_rows(
    rest: Mapping[str, Any],
    column: str,
    responses: Any,
    scores: Any,
    pairs: RankedPairs = "all",
) -> list[dict[str, Any]]:
    """The pairs of one row, each as a row with `chosen`, `rejected` and their scores.

    They come in the order of the ranking; two responses with one score, or without, are in the
    order of the row. A response that says the same as a better one is left out.

    Args:
        rest: What else is in each of these rows: the prompt.
        column: Name of the column of responses, for messages.
        responses: The responses, text or messages each.
        scores: Their scores, higher is better.
        pairs: Which of them are compared.

    Raises:
        UnusableRow: If these are no two lists of one length, or fewer than two responses differ.
    """
    for value, what in ((responses, "responses"), (scores, "scores or ranks")):
        if not isinstance(value, Sequence) or isinstance(value, str):
            found = type(value).__name__
            raise UnusableRow(column, "wrong type", f"{found}, not a list of {what}")
    if len(responses) != len(scores):
        detail = f"{len(responses)} responses with {len(scores)} scores or ranks"
        raise UnusableRow(column, "not as many scores as responses", detail)
    numbers = [as_score(column, score) for score in scores]
    known = [(-n, place) for place, n in enumerate(numbers) if n is not None]
    order: list[int] = []
    for _, place in sorted(known):
        if all(responses[place] != responses[other] for other in order):
            order.append(place)
    if len(order) < 2:
        raise UnusableRow(column, "fewer than two different responses with a score")
    firsts = range(1 if pairs == "best" else len(order))
    return [
        {
            **rest,
            "chosen": responses[order[better]],
            "rejected": responses[order[worse]],
            **dict(zip(SCORES, (numbers[order[better]], numbers[order[worse]]), strict=True)),
        }
        for better in firsts
        for worse in range(better + 1, len(order))
    ]


def scores_of_ranks(column: str, ranks: Any) -> list[float | None]:
    """Ranks, of which 1 is the best, as scores: a difference in rank is one in score.

    Raises:
        UnusableRow: If they are no list of numbers.
    """
    if not isinstance(ranks, Sequence) or isinstance(ranks, str):
        raise UnusableRow(column, "wrong type", f"{type(ranks).__name__}, not a list of ranks")
    numbers = [as_score(column, rank) for rank in ranks]
    return [None if number is None else -number for number in numbers]
