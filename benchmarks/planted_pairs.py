"""Preference pairs in which some rows are wrong on purpose, each in a known way at a known place.

All others are clean: random sentences of common words, so that no two prompts are alike.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

EVERY = 200
"""One row of each kind in so many."""
PLACES = {
    "both_labels": 20,
    "near_prompts": 40,
    "end_twice": 60,
    "foreign_markup": 80,
    "equal_after_cut": 100,
    "skipped": 120,
    "score_against": 140,
}
"""At which place among them each kind stands."""
BACK = {"both_labels": 13, "near_prompts": 11}
"""How many rows earlier the clean row stands that a row repeats."""
WORDS = (
    "a about after again air all along also always an and animal another answer any are around as "
    "ask at away back be because been before began being below between big book both boy but by "
    "call came can change city close cold come could country cut day did different do does down "
    "each earth eat end enough even every example eye face family far father feet few find first "
    "follow food for form found four from get girl give go good got great group grow had hand hard "
    "has have he head hear help her here high him his home house how idea if important in into is "
    "it just keep kind know land large last late learn leave left letter life light like line list "
    "little live long look low made make man many may me mean men might mile more morning most "
    "mother mountain move much must my name near need never new next night no north not now number "
    "of off often old on once one only open or other our out over own page paper part people place "
    "plant play point put question quick read real right river room run said same saw say school "
    "sea second see seem sentence set she should show side simple slow small so some song soon "
    "sound spell start state still stop story study such sun table take talk teach tell than that "
    "the their them then there these they thing think this those thought three through time to "
    "together too tree try turn two under until up us use very voice walk want was watch water way "
    "we well went were what when where which while white who why will wind with without word work "
    "world would write year you young your"
).split()


def kind_of(index: int) -> str:
    """Which kind the row at an index is; `clean` for most."""
    place = index % EVERY
    return next((kind for kind, at in PLACES.items() if at == place), "clean")


def planted_row(index: int, longer: float = 0.5, end: str = "<|im_end|>") -> dict[str, Any]:
    """The row at an index.

    Args:
        index: From 0.
        longer: Share of rows whose chosen response is the longer one.
        end: End token of the model that the rows are for.
    """
    kind = kind_of(index)
    if kind in BACK:
        row = planted_row(index - BACK[kind], longer)
        if kind == "both_labels":
            return row | {"chosen": row["rejected"], "rejected": row["chosen"]}
        words = row["prompt"].split()
        words[0] = "Today"
        own = planted_row(index - index % EVERY + EVERY * 10**9, longer)  # a clean one
        return own | {"prompt": " ".join(words)}
    draw = random.Random(index)
    responses = sorted((_sentence(draw, 12, 36), _sentence(draw, 12, 36)), key=len)
    if draw.random() < longer:
        responses.reverse()
    chosen, rejected = responses
    row = {
        "prompt": _sentence(draw, 20, 30),
        "chosen": chosen,
        "rejected": rejected,
        "chosen_score": 8.0,
        "rejected_score": 3.0,
    }
    if kind == "end_twice":
        row["chosen"] += end
    elif kind == "foreign_markup":
        row["prompt"] = f"[INST] {row['prompt']} [/INST]"
    elif kind == "equal_after_cut":
        start = _sentence(draw, 700, 700)
        row |= {"chosen": f"{start} {chosen}", "rejected": f"{start} {rejected}"}
    elif kind == "skipped":
        row["rejected"] = row["chosen"]
    elif kind == "score_against":
        row |= {"chosen_score": 2.0, "rejected_score": 3.0}
    return row


def planted_rows(count: int, longer: float = 0.5) -> Iterator[dict[str, Any]]:
    """So many rows, in order."""
    return (planted_row(index, longer) for index in range(count))


def _sentence(draw: random.Random, least: int, most: int) -> str:
    words = draw.choices(WORDS, k=draw.randint(least, most))
    return " ".join(words).capitalize() + "."
