"""Pairs as a `datasets.Dataset`: what is read from it again is what was there."""

from __future__ import annotations

import pytest

from dpo_lab.data.preferences import load_preferences, preferences_from_rows

TURNS = [{"role": "user", "content": "where is it?"}]


def messages(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": "a b", "chosen": "c", "rejected": "d"}] * 2,
        [{"prompt": TURNS, "chosen": messages("here"), "rejected": messages("there")}],
        [{"chosen": TURNS + messages("here"), "rejected": TURNS + messages("there")}],
    ],
    ids=["text", "messages", "implicit prompt"],
)
def test_a_data_set_holds_the_pairs(rows):
    pairs = preferences_from_rows(rows)
    dataset = pairs.to_dataset()
    assert dataset.column_names == ["prompt", "chosen", "rejected"] and len(dataset) == len(rows)
    again = preferences_from_rows(dataset)
    assert again.fingerprint() == pairs.fingerprint()


def test_built_in_data_goes_out_whole():
    pairs = load_preferences("reviews", limit=50)
    dataset = pairs.to_dataset()
    assert dataset[7] == {k: getattr(pairs[7], k) for k in ("prompt", "chosen", "rejected")}


def test_mixed_rows_are_refused_in_words():
    text = {"prompt": "a", "chosen": "b", "rejected": "c"}
    talk = {"prompt": TURNS, "chosen": messages("here"), "rejected": messages("there")}
    with pytest.raises(ValueError, match="some rows are text and some are messages"):
        preferences_from_rows([text, talk]).to_dataset()


def test_tools_and_calls_go_out_and_come_back():
    """One row has tools and calls one, the other not: a table gives both every field."""
    tools = [
        {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    ]
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Jena"}}}
    calling = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "weather", "content": "18 C"},
        *messages("It is 18 C."),
    ]
    rows = [
        {"prompt": TURNS, "chosen": calling, "rejected": messages("no"), "tools": tools},
        {"prompt": TURNS, "chosen": messages("here"), "rejected": messages("there")},
    ]
    pairs = preferences_from_rows(rows)
    assert preferences_from_rows(pairs.to_dataset()).fingerprint() == pairs.fingerprint()
