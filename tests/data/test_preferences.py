"""Sources and shapes of preference pairs, splits by prompt, and the built-in data sets."""

import gzip
import json
import math
import pickle
import runpy
import shutil
import sys
from pathlib import Path

import datasets
import huggingface_hub
import pytest
from datasets import Dataset, DatasetDict, load_dataset
from hypothesis import given, settings, strategies as st

from dpo_lab.data import reviews
from dpo_lab.data.builtin import BUILTIN
from dpo_lab.data.held_out import load_train_and_held_out, split_by_prompt
from dpo_lab.data.pairs import prompt_text, response_text
from dpo_lab.data.preferences import load_preferences, preferences_from_rows
from dpo_lab.data.problems import BadRows, RowProblem
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.setup import load_data

ROOT = Path(__file__).parents[2]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


EXPLICIT = [
    {"prompt": "Où est-ce ?", "chosen": "Ici, là.", "rejected": 'A "quoted"\nline'},
    {"prompt": "And you?", "chosen": "Fine", "rejected": "Bad"},
]
IMPLICIT = [
    {"chosen": f"\n\nHuman: {q}\n\nAssistant: {a}", "rejected": f"\n\nHuman: {q}\n\nAssistant: {b}"}
    for q, a, b in (("hi", "I see.", "I do not."), ("yo", "Yes", "No"))
]
CONVERSATION = [
    {"prompt": [user("é?")], "chosen": [assistant("oui")], "rejected": [assistant("non")]},
    {
        "prompt": [{"role": "system", "content": "be short"}, user("a"), assistant("b"), user("c")],
        "chosen": [assistant("d")],
        "rejected": [assistant('"e", [f]')],
    },
]


def write(rows, path: Path) -> Path:
    """Write rows in the way that a path's ending, or its name, says."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.name == "saved":
        Dataset.from_list(rows).save_to_disk(path)
    elif path.name == "dict":
        DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(path)
    elif path.name == "folder":
        path.mkdir()
        (path / "train.jsonl").write_text(lines, "utf-8")
        (path / "test.jsonl").write_text("not read", "utf-8")
    elif path.suffix == ".csv":
        cells = [
            {k: v if isinstance(v, str) else json.dumps(v) for k, v in r.items()} for r in rows
        ]
        Dataset.from_list(cells).to_csv(path)
    elif path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif path.name.endswith(".json"):
        path.write_text(json.dumps({"data": rows} if path.stem == "under-data" else rows), "utf-8")
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_bytes(b"\xef\xbb\xbf" + lines.replace("\n", "\r\n").encode())
    return path


@pytest.mark.parametrize("rows", [EXPLICIT, IMPLICIT, CONVERSATION], ids=["text", "hh", "chat"])
@pytest.mark.parametrize(
    "name",
    ["a.jsonl", "A.JSONL", "a.jsonl.gz", "a.json", "under-data.json", "a.csv", "a.parquet"]
    + ["folder", "saved", "dict"],
)
def test_every_source_gives_the_same_pairs(tmp_path, rows, name):
    loaded = load_preferences(write(rows, tmp_path / name))
    expected = preferences_from_rows(rows)
    assert loaded.pairs == expected.pairs
    assert loaded.fingerprint() == expected.fingerprint()
    assert [pair.row for pair in loaded] == [1, 2]
    assert (loaded.report.rows, loaded.report.kept, loaded.report.skipped) == (2, 2, {})


def test_explicit_and_conversational_rows_are_kept_as_they_are():
    for rows in (EXPLICIT, CONVERSATION):
        for pair, row in zip(preferences_from_rows(rows), rows, strict=True):
            assert {name: getattr(pair, name) for name in row} == row


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        # HH: both answers begin with "I", which belongs to them and not to the prompt.
        (IMPLICIT[0], ("\n\nHuman: hi\n\nAssistant:", " I see.", " I do not.")),
        # Two turns: the prompt reaches to the last answer.
        (
            {
                "chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
                "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: e",
            },
            ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", " d", " e"),
        ),
        # Any other prefix is cut at a line: "It is 4" is shared, and belongs to the answers.
        (
            {"chosen": "What is it?\nIt is 42.", "rejected": "What is it?\nIt is 43."},
            ("What is it?\n", "It is 42.", "It is 43."),
        ),
        # One answer is the beginning of the other.
        (
            {"chosen": "Well?\nIt is good", "rejected": "Well?\nIt is good now"},
            ("Well?\n", "It is good", "It is good now"),
        ),
        # An answer's first line that both share comes after the turn, so it is the answer's.
        (
            {"chosen": "Q: ?\nA: so\nb", "rejected": "Q: ?\nA: so\nc"},
            ("Q: ?\nA:", " so\nb", " so\nc"),
        ),
        # Messages with a shared beginning, no prompt column.
        (
            {"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]},
            ([user("q")], [assistant("a")], [assistant("b")]),
        ),
        # UltraFeedback: the prompt as text, and whole conversations.
        (
            {
                "prompt": "q",
                "chosen": [user("q"), assistant("a")],
                "rejected": [user("q"), assistant("b")],
            },
            ([user("q")], [assistant("a")], [assistant("b")]),
        ),
        # The prompt as text, and answers alone.
        (
            {"prompt": "q", "chosen": [assistant("a")], "rejected": [assistant("b")]},
            ([user("q")], [assistant("a")], [assistant("b")]),
        ),
        # Other fields of a message are left behind; a call of a tool is history like any other.
        (
            {
                "prompt": [user("q"), assistant("?"), {"role": "tool", "content": "", "id": 3}],
                "chosen": [{**assistant("a"), "tool_calls": None}],
                "rejected": [assistant("b")],
            },
            (
                [user("q"), assistant("?"), {"role": "tool", "content": ""}],
                [assistant("a")],
                [assistant("b")],
            ),
        ),
    ],
)
def test_shapes(row, expected):
    (pair,) = preferences_from_rows([row])
    assert (pair.prompt, pair.chosen, pair.rejected) == expected


def test_columns_are_mapped(tmp_path):
    rows = [{"q": row["prompt"], "good": row["chosen"], "rejected": "no"} for row in EXPLICIT]
    columns = {"prompt": "q", "chosen": "good"}
    mapped = load_preferences(write(rows, tmp_path / "a.jsonl"), columns=columns)
    assert [pair.prompt for pair in mapped] == ["Où est-ce ?", "And you?"]
    assert [pair.chosen for pair in mapped] == ["Ici, là.", "Fine"]
    with pytest.raises(BadRows, match="row 1, 'good': empty"):
        preferences_from_rows([{**rows[0], "good": ""}], columns=columns, on_bad_rows="raise")


def test_limit_counts_good_pairs(tmp_path):
    path = write([{"id": 1}, *EXPLICIT, {"id": 2}, *EXPLICIT], tmp_path / "a.jsonl")
    kept = load_preferences(path, limit=3, on_bad_rows="skip")
    assert [pair.row for pair in kept] == [2, 3, 5]
    assert (kept.report.rows, kept.report.kept, kept.report.skipped) == (5, 3, {"missing": 2})


def test_limit_does_not_count_pairs_that_are_left_out_beside_others(tmp_path):
    """A row without a prompt is a pair only where no row has one."""
    implicit = {"chosen": "So\na", "rejected": "So\nb"}
    rows = [implicit, EXPLICIT[0], implicit, EXPLICIT[1], EXPLICIT[0]]
    kept = load_preferences(write(rows, tmp_path / "a.jsonl"), limit=2, on_bad_rows="skip")
    assert [pair.row for pair in kept] == [2, 4]
    assert (kept.report.rows, kept.report.kept) == (4, 2)
    assert kept.report.skipped == {"missing, though other rows have it": 2}
    kept = load_preferences(write([implicit] * 3, tmp_path / "b.jsonl"), limit=2)
    assert [pair.row for pair in kept] == [1, 2]


def test_reasons_are_counted_and_the_first_rows_named(tmp_path):
    path = tmp_path / "a.jsonl"
    good = json.dumps(EXPLICIT[0])
    path.write_text("\n".join([good, good[:-1], good[:-9], "7", json.dumps({"chosen": 1})]))
    report = load_preferences(path, on_bad_rows="skip", max_problems=3).report
    assert report.skipped == {"truncated or malformed JSON": 2, "wrong type": 2}
    assert [problem.row for problem in report.problems] == [2, 3, 4]
    assert "1 pairs from 5 rows, skipped: 2 truncated or malformed JSON, 2 wrong" in str(report)


def test_rows_are_named_in_their_order():
    """A missing prompt shows only when another row has one, and is still told in its place."""
    implicit = {"chosen": "So a", "rejected": "So b"}
    with pytest.raises(BadRows) as caught:
        preferences_from_rows([implicit, {}, EXPLICIT[0], implicit], on_bad_rows="raise")
    assert [problem.row for problem in caught.value.problems] == [1, 2, 4]


def test_after_malformed_csv_the_next_line_is_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt,chosen,rejected\nq,a,b\nq,"a"x,b\nq,c,d\n')
    loaded = load_preferences(path, on_bad_rows="skip")
    assert [(pair.row, pair.chosen) for pair in loaded] == [(1, "a"), (3, "c")]
    assert "row 2: malformed CSV (line 3: " in str(loaded.report.problems[0])
    assert (loaded.report.rows, loaded.report.kept) == (3, 2)


def test_empty_lines_of_csv_are_no_rows_and_fields_may_hold_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('\nprompt,chosen,rejected\n\n\nq,"a\n""b""",b\n\nq,"x"y,z\n\nq,c\n')
    loaded = load_preferences(path, on_bad_rows="skip")
    assert [(pair.row, pair.chosen) for pair in loaded] == [(1, 'a\n"b"')]
    assert loaded.report.rows == 3
    assert loaded.report.skipped == {"malformed CSV": 1, "missing": 1}
    assert "row 2: malformed CSV (line 8: " in str(loaded.report.problems[0])


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_one_line_is_json_lines_whatever_the_name(tmp_path, name):
    (tmp_path / name).write_text(json.dumps(EXPLICIT[0]) + "\n")
    (pair,) = load_preferences(tmp_path / name)
    assert (pair.row, pair.prompt) == (1, EXPLICIT[0]["prompt"])


def test_csv_fields_may_be_long_and_lists_that_are_no_messages_are_text(tmp_path):
    row = {"prompt": "q", "chosen": "a " * 100_000, "rejected": '[{"a": 1}]'}
    (pair,) = load_preferences(write([row], tmp_path / "a.csv"))
    assert (pair.chosen, pair.rejected) == (row["chosen"], row["rejected"])


def test_problems_survive_pickling():
    """They cross process boundaries, in sweeps."""
    problem = RowProblem(3, "chosen", "empty", "null")
    for error in (problem, BadRows("here", 9, 2, [problem])):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


# Folders and the hub


def test_a_folder_has_splits(tmp_path):
    rows = {"train-00000": EXPLICIT[0], "training": "not read", "validation": EXPLICIT[1]}
    for name, row in rows.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row))
    train, held_out = load_train_and_held_out(tmp_path)
    assert [pair.prompt for pair in train] == ["Où est-ce ?"]
    assert [pair.prompt for pair in held_out] == ["And you?"]
    (tmp_path / "test.jsonl").write_text(json.dumps({**EXPLICIT[1], "prompt": "Who?"}))
    assert load_train_and_held_out(tmp_path)[1][0].prompt == "Who?"
    assert load_train_and_held_out(tmp_path, split="test")[1][0].prompt == "And you?"
    (tmp_path / "train.jsonl").write_text(json.dumps(EXPLICIT[1]))  # an exact name comes first
    assert load_preferences(tmp_path)[0].prompt == "And you?"


def test_a_built_in_test_split_is_held_out(tmp_path):
    shared = {**EXPLICIT[0], "chosen": "Elsewhere."}
    train = Dataset.from_list(EXPLICIT[:1])
    test = Dataset.from_list([shared, EXPLICIT[1]])
    DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "saved")
    train, held_out = load_train_and_held_out(tmp_path / "saved", limit=1)
    assert [pair.prompt for pair in held_out] == ["And you?"]
    assert held_out.report.skipped == {"prompt is trained on": 1}
    assert held_out.report.kept + 1 == held_out.report.rows == 2
    assert not len(load_train_and_held_out(tmp_path / "saved", held_out=0)[1])
    with pytest.raises(ValueError, match="held_out=1: must be in"):
        load_train_and_held_out(tmp_path / "saved", held_out=1)


ASKED = [{"role": "system", "content": "be short"}, user("Where is  it?\n")]
LEAKS = {
    "the same messages": ASKED,
    "fields in another order": [dict(reversed(message.items())) for message in ASKED],
    "a field beside": [{**message, "name": "x"} for message in ASKED],
    "white space": [ASKED[0], user(" Where is it? ")],
    "text parts": [
        {"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in ASKED
    ],
}
FRESH = {
    "another question": [ASKED[0], user("Where was it?")],
    "another system message": [{"role": "system", "content": "be long"}, ASKED[1]],
    "no system message": ASKED[1:],
    "another way there": [*ASKED, assistant("There."), ASKED[1]],
    "letter case": [ASKED[0], user("where is it?")],
}


def conversation(prompt, n: int = 0) -> dict:
    return {"prompt": prompt, "chosen": [assistant(f"a{n}")], "rejected": [assistant("b")]}


@pytest.mark.parametrize("prompt", LEAKS.values(), ids=LEAKS)
def test_a_held_out_conversation_that_is_trained_on_is_noticed(tmp_path, prompt):
    write([conversation(ASKED), conversation([user("q")])], tmp_path / "train.jsonl")
    test = [conversation([user("r")]), conversation(prompt, 1)]
    write(test, tmp_path / "test.jsonl")
    held_out = load_train_and_held_out(tmp_path)[1]
    assert [pair.prompt for pair in held_out] == [[user("r")]]
    report = held_out.report
    assert (report.rows, report.kept, report.skipped) == (2, 1, {"prompt is trained on": 1})
    assert [str(problem) for problem in report.problems] == [
        "row 2, 'prompt': prompt is trained on"
    ]
    write(test[1:], tmp_path / "test.jsonl")
    with pytest.raises(ValueError, match="every prompt is trained on, too"):
        load_train_and_held_out(tmp_path)


@pytest.mark.parametrize("prompt", FRESH.values(), ids=FRESH)
def test_a_conversation_that_is_another_is_held_out(tmp_path, prompt):
    write([conversation(ASKED)], tmp_path / "train.jsonl")
    write([conversation(prompt)], tmp_path / "test.jsonl")
    held_out = load_train_and_held_out(tmp_path)[1]
    assert (len(held_out), held_out.report.skipped) == (1, {})


def test_one_message_of_the_user_is_its_text(tmp_path):
    write([{"prompt": "Where is it?", "chosen": "a", "rejected": "b"}], tmp_path / "train.jsonl")
    rows = [conversation([user("Where is it? ")]), conversation([user("Who?")])]
    write(rows, tmp_path / "test.jsonl")
    assert load_train_and_held_out(tmp_path)[1].report.skipped == {"prompt is trained on": 1}


@pytest.mark.parametrize("seed", range(6))
def test_a_split_keeps_conversations_that_are_the_same_on_one_side(seed):
    spaced = [ASKED[0], user("Where is it?")]
    rows = [conversation(p, n) for n, p in enumerate([ASKED, spaced, *FRESH.values()])]
    train, held_out = split_by_prompt(preferences_from_rows(rows), 0.5, seed)
    sides = [{pair.row for pair in side} & {1, 2} for side in (train, held_out)]
    assert sides in ([{1, 2}, set()], [set(), {1, 2}])
    assert len(held_out) + len(train) == 7


@pytest.mark.parametrize(
    ("as_prompt", "held_out", "fingerprint"),
    [
        (str, {0: [4, 5, 10], 7: [2, 6, 7]}, "dabe0a990955d0a0031271289f8e3a1c"),
        (lambda text: [user(text)], {0: [1, 6, 7], 7: [1, 6, 10]},
         "ded31c8e30fa8f168b7dd499c63ed89f"),
    ],
    ids=["text", "messages"],
)  # fmt: skip
def test_a_run_that_is_resumed_finds_its_pairs_again(as_prompt, held_out, fingerprint):
    """Which rows are held out, and the pairs' hash, are those of runs that are on disk."""
    data = preferences_from_rows(
        {"prompt": as_prompt(f"Question {n}?"), "chosen": "Ici", "rejected": "b"}
        if as_prompt is str
        else conversation(as_prompt(f"Question {n}?"))
        for n in range(10)
    )
    for seed, rows in held_out.items():
        assert [pair.row for pair in split_by_prompt(data, 0.3, seed)[1]] == rows
    assert data.fingerprint() == fingerprint


def test_a_source_without_such_a_split_is_split_by_prompt(tmp_path):
    rows = [{**EXPLICIT[1], "prompt": str(n % 10), "chosen": f"c{n}"} for n in range(40)]
    train, held_out = load_train_and_held_out(write(rows, tmp_path / "a.json"), held_out=0.2)
    assert len({pair.prompt for pair in held_out}) == 2
    assert len(train) == 32


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A data set of the hub as the cache of `datasets` holds it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    files = tmp_path / "name"
    files.mkdir()
    for split, row in (("train", EXPLICIT[0]), ("test", EXPLICIT[1])):
        (files / f"{split}.jsonl").write_text(json.dumps(row))
    load_dataset(str(files))
    (made,) = (tmp_path / "cache").glob("name*")
    shutil.move(made, tmp_path / "cache" / "owner___name")


def test_the_cache_is_used_without_a_connection(cached, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    train, held_out = load_train_and_held_out("owner/name")
    assert train.pairs == preferences_from_rows(EXPLICIT[:1]).pairs
    assert [pair.prompt for pair in held_out] == ["And you?"]
    with pytest.raises(ValueError, match='cannot be read: Unknown split "dev".* Name another'):
        load_preferences("owner/name", "dev")
    with pytest.raises(FileNotFoundError, match="the hub cannot be reached .* HF_HUB_OFFLINE=1"):
        load_preferences("owner/other")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        # A transport error that is no OSError, as those of the hub's client.
        (EOFError(), "hub cannot be reached (EOFError). Give a local file, or try again"),
        (huggingface_hub.errors.HFValidationError("bad id."), "open to you (bad id). Built in are"),
        (None, "open to you (Gated). Built in are reviews and places; otherwise give a path"),
    ],
)
def test_the_hub_is_asked_once_before_it_is_read(monkeypatch, error, message):
    asked = []

    def dataset_info(self, name, timeout):
        asked.append((name, timeout))
        if error is not None:
            raise error

    def load(name, split):
        assert error is None, "the probe should have failed"
        raise datasets.exceptions.DatasetNotFoundError("Gated")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(FileNotFoundError) as caught:
        load_preferences("owner/name")
    assert str(caught.value).startswith("owner/name: no such file or folder here, and")
    assert message in str(caught.value)
    assert asked == [("owner/name", 10)]


# Splits by prompt

PROMPTS = st.lists(st.integers(0, 30).map(str), min_size=2, max_size=60)


@settings(max_examples=60)
@given(PROMPTS, st.floats(0.01, 0.99), st.integers(0, 5))
def test_a_split_shares_no_prompt_and_loses_no_pair(prompts, share, seed):
    data = preferences_from_rows(
        [{"prompt": p, "chosen": f"a{n}", "rejected": "b"} for n, p in enumerate(prompts)]
    )
    if len(set(prompts)) < 2:
        return
    train, held_out = split_by_prompt(data, share, seed)
    assert not set(train.prompts) & set(held_out.prompts)
    assert sorted([*train, *held_out], key=lambda pair: pair.row) == list(data)
    expected = min(max(round(share * len(set(prompts))), 1), len(set(prompts)) - 1)
    assert len(held_out.prompts) == expected
    assert split_by_prompt(data, share, seed)[1].pairs == held_out.pairs


def test_the_seed_decides_which_prompts_and_not_their_order():
    rows = [{"prompt": str(n), "chosen": "a", "rejected": "b"} for n in range(50)]
    held_out = [
        set(split_by_prompt(preferences_from_rows(rows), 0.2, s)[1].prompts) for s in (0, 1)
    ]
    again = set(split_by_prompt(preferences_from_rows(rows[::-1]), 0.2, 0)[1].prompts)
    assert held_out[0] == again != held_out[1]


# Built-in data sets


@pytest.mark.parametrize("name", BUILTIN)
def test_built_in_data_load_whole(name):
    train, held_out = load_train_and_held_out(name)
    folder = ROOT / "assets" / "data" / name
    for part, loaded in (("train", train), ("test", held_out)):
        assert len(loaded) == len((folder / f"{part}.jsonl").read_bytes().splitlines()) >= 200
    assert not train.report.skipped and not held_out.report.skipped
    assert not {p.prompt_key for p in train} & {p.prompt_key for p in held_out}
    assert train.reward_fn is held_out.reward_fn is BUILTIN[name].reward_fn
    pair = held_out[0]
    assert math.isfinite(train.reward_fn(prompt_text(pair.prompt), response_text(pair.chosen)))


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        ("good", 1.0),
        ("very good", 1.5),  # 1.5 x 1.0
        ("not good", -0.5),  # -0.5 x 1.0
        ("not bad", 0.75),  # -0.5 x -1.5
        ("not very good", -0.75),  # -0.5 x 1.5 x 1.0
        ("slightly awful", -0.8),  # 0.4 x -2.0
        ("dull but warm", -0.3),  # -1.0 + 0.7
        ("superb and great", 3.5),  # 2.0 + 1.5
        ("very and good", 1.0),  # a connector ends the adverb's reach
        ("very good good", 2.5),  # so does an adjective: 1.5 + 1.0
        ("very the good", 1.5),  # any other word is passed over
        ("superb superb superb " * 16, 6.0),  # three words are read, of any answer
        ("superb but nice but superb", 2.5),  # 2.0 + 0.5
        ("not", 0.0),
        ("", 0.0),
    ],
)
def test_rewards_by_hand(response, reward):
    assert reviews.reward("the plot was", response) == pytest.approx(reward, abs=1e-12)


def test_labels_follow_bradley_terry():
    """The share of chosen with the higher reward is the mean of sigmoid(|margin|)."""
    agreed, expected, variance, pairs = 0.0, 0.0, 0.0, 0
    for row in reviews.sample_pairs(reviews.PROMPTS, 20_000, seed=3):
        margin = reviews.reward("", row["chosen"]) - reviews.reward("", row["rejected"])
        likely = 1 / (1 + math.exp(-abs(margin)))
        agreed += (margin > 0) + 0.5 * (margin == 0)
        expected += likely
        variance += likely * (1 - likely) * (margin != 0)
        pairs += 1
    assert abs(agreed - expected) < 4 * math.sqrt(variance)
    assert 0.6 < agreed / pairs < 0.95  # neither a coin nor an argmax


def test_verdicts_are_words_of_the_micro_world():
    corpus = reviews.sample_corpus(2000, seed=0)
    assert {prompt for prompt, _ in corpus} == set(reviews.PROMPTS)
    assert all(1 <= len(r.split()) <= reviews.MAX_WORDS for _, r in corpus)
    assert {word for p, r in corpus for word in f"{p} {r}".split()} == set(reviews.WORDS)


def test_the_script_writes_the_same_bytes_again(tmp_path, monkeypatch):
    script = ROOT / "assets" / "scripts" / "make_reviews.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path)])
    runpy.run_path(str(script), run_name="__main__")
    for name in ("train.jsonl", "test.jsonl"):
        kept = ROOT / "assets" / "data" / "reviews" / name
        assert (tmp_path / name).read_bytes() == kept.read_bytes()


def test_hh_harmless():
    path = ROOT.parent / "shared" / "data" / "hh_harmless_1156.jsonl.gz"
    if not path.exists():
        pytest.skip("the file is not here")
    loaded = load_preferences(path, on_bad_rows="skip")
    # In 16 rows an answer begins with "Human:": it would be learnt as the assistant's.
    skipped = {"empty response": 4, "several turns in an answer": 16}
    assert (loaded.report.rows, loaded.report.skipped) == (1156, skipped)
    assert len(loaded) == loaded.report.kept == 1136
    every = load_preferences(path, on_bad_rows="skip", max_problems=99).report.problems
    empty = [problem.row for problem in every if problem.reason == "empty response"]
    assert empty == [87, 517, 926, 1104]
    assert [*map(str, loaded.report.problems)] == [*map(str, every[:10])]
    for pair in loaded:
        assert pair.prompt.endswith("\n\nAssistant:")
        for response in (pair.chosen, pair.rejected):
            assert "\n\nHuman:" not in response and not response.lstrip().startswith("Human:")
    with pytest.raises(
        BadRows, match="20 of 1156 rows cannot be used: row 30, 'chosen': several turns"
    ):
        load_preferences(path, on_bad_rows="raise")


MANY = [
    {"prompt": f"prompt {number // 2}", "chosen": f"good {number}", "rejected": "bad"}
    for number in range(40)
]


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_limit_is_one_of_training_pairs_and_leaves_what_is_held_out(tmp_path, kind):
    """Of 20 prompts with two pairs each, 5 are held out; the first 12 pairs of the others stay."""

    def parts(limit):
        if kind == "memory":
            return load_data(TrainConfig(held_out=0.25, limit=limit), MANY)
        path = write(MANY, tmp_path / "a.jsonl")
        return load_train_and_held_out(path, held_out=0.25, limit=limit)

    (whole, held_out), (train, same) = parts(None), parts(12)
    assert (len(whole), len(held_out), len(train)) == (30, 10, 12)
    assert train.pairs == whole.pairs[:12] and same.pairs == held_out.pairs
    assert len(parts(500)[0]) == 30


def test_reading_stops_at_the_limit_where_nothing_has_to_be_divided(tmp_path):
    broken = [*MANY[:5], {"prompt": 7}]
    (tmp_path / "own").mkdir()
    for path in (tmp_path / "a.jsonl", tmp_path / "own" / "train.jsonl"):
        write(broken, path)
    write([{**MANY[0], "prompt": "another"}], tmp_path / "own" / "test.jsonl")
    stops = {"on_bad_rows": "raise", "limit": 5}
    train, held_out = load_train_and_held_out(tmp_path / "own", held_out=0.1, **stops)
    assert (len(train), train.report.rows, len(held_out)) == (5, 5, 1)
    train, held_out = load_train_and_held_out(tmp_path / "a.jsonl", held_out=0, **stops)
    assert (len(train), train.report.rows, len(held_out)) == (5, 5, 0)
    with pytest.raises(BadRows, match="row 6"):
        load_train_and_held_out(tmp_path / "a.jsonl", held_out=0.1, **stops)
    with pytest.raises(ValueError, match="limit=0: must be at least 1"):
        load_train_and_held_out(tmp_path / "a.jsonl", limit=0)
