"""No column and no field of a message vanishes: it is used, named as unused, or an error."""

import json

import pytest

from dpo_lab.data.preferences import load_preferences, preferences_from_rows
from dpo_lab.data.repeats import Repeats


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


ROW = {"prompt": "q", "chosen": "a", "rejected": "b"}
PAIR = ([user("q")], [assistant("a")], [assistant("b")])
TALK = dict(zip(ROW, PAIR, strict=True))


def report(*rows, **options):
    return preferences_from_rows(rows, **options).report


def test_columns_that_nothing_uses_are_named_with_their_rows():
    """A null, an empty text or list, and NaN say nothing; 0 and false do."""
    nothing = [None, "", [], {}, float("nan"), [""]]
    rows = [
        {**ROW, "prompt": f"q{n}", "system": "s" if n < 2 else value, "score": 0, "none": value}
        for n, value in enumerate(nothing)
    ]
    rows[0]["id"] = False
    told = report(*rows)
    assert told.unused_columns == {"system": 2, "score": 6, "none": 0, "id": 1}
    words = "unused: system (2 rows), score (6 rows), none (empty), id (1 row); to use one, "
    assert f"6 pairs from 6 rows; {words}map it with --columns" in str(told)
    assert report(ROW).unused_columns == {} and str(report(ROW)) == "rows: 1 pairs from 1 rows"
    assert str(report({**ROW, "x": ""})) == "rows: 1 pairs from 1 rows; unused: x (empty)"


def test_a_column_that_is_mapped_is_used_and_what_it_hides_is_not():
    row = {"question": "q", "prompt": "other", "chosen": "a", "rejected": "b", "input": "i"}
    assert report(row, columns={"prompt": "question"}).unused_columns == {"prompt": 1, "input": 1}


def test_columns_of_rows_that_are_skipped_are_counted_too():
    told = report(ROW, {**ROW, "chosen": "", "system": "s"}, on_bad_rows="skip")
    assert told.unused_columns == {"system": 1}
    assert "1 pairs from 2 rows, skipped: 1 empty (row 2); unused: system (1 row)" in str(told)


def test_ids_of_sampled_responses_are_used():
    sampled = {"ids": [1, 2], "ended": True, "tokenizer": "x"}
    row = {**ROW, "chosen_sampled": sampled}
    told = report(row, row, ROW)
    assert (told.unused_columns, told.duplicates, told.alike) == ({}, Repeats(1, (2,)), Repeats())


def test_fields_of_messages_that_nothing_uses_are_named():
    thought = {**assistant("a"), "refusal": "hm", "name": "", "tool_calls": None}
    parts = [{"type": "text", "text": "q", "cache_control": {"type": "x"}}]
    told = report(
        {**TALK, "chosen": [thought]},
        {**TALK, "prompt": [{**user("q2"), "name": "Ada"}, assistant("x"), {**user("y"), "id": 1}]},
        {**TALK, "prompt": [{"role": "user", "content": parts}]},
        {**TALK, "prompt": {"from": "human", "value": "q3", "weight": 0}},
    )
    expected = {"refusal": 1, "name": 1, "id": 1, "content.cache_control": 1, "weight": 1}
    assert told.unused_fields == expected
    assert "; unused in messages: refusal (1 row), name (1 row)" in str(told)
    assert str(told).endswith("; to use one, write it into content")


def test_fields_of_a_parquet_file_that_are_null_everywhere_are_not_named(tmp_path):
    """A table gives every message every field."""
    datasets = pytest.importorskip("datasets")
    tool = {"role": "tool", "content": "18 C", "name": "weather", "weight": 1}
    rows = [{**TALK, "prompt": [user("q"), assistant("?"), tool]}, TALK]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    assert load_preferences(tmp_path / "a.parquet").report.unused_fields == {"weight": 1}


def test_repeated_rows_are_counted_and_named():
    rows = [
        ROW,
        {**ROW, "system": "s"},  # repeats row 1 but for what is unused
        {**ROW, "system": "s"},  # repeats row 2 whole
        {**ROW, "chosen": "c", "system": "s"},  # another pair
        {"rejected": "b", "chosen": "a", "prompt": "q"},  # row 1, columns in another order
        {**ROW, "system": "t"},
    ]
    told = report(*rows)
    assert told.duplicates == Repeats(2, (3, 5))
    assert told.alike == Repeats(2, (2, 6))
    assert "; 2 rows repeat an earlier one whole (rows 3, 5)" in str(told)
    assert "; 2 rows repeat an earlier one except in what is unused (rows 2, 6)" in str(told)
    many = report(*[ROW] * 13)
    assert many.duplicates == Repeats(12, tuple(range(2, 12)))
    assert (
        "; 12 rows repeat an earlier one whole (rows 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more)"
        in str(many)
    )
    thoughts = [{**assistant("a"), "refusal": text} for text in ("x", "y", "x")]
    told = report(*({**TALK, "chosen": [one]} for one in thoughts))
    assert (told.duplicates, told.alike) == (Repeats(1, (3,)), Repeats(1, (2,)))


def test_rows_that_differ_in_one_of_two_like_fields_are_alike_and_no_duplicates():
    def named(asks: str, answers: str) -> dict:
        answer = {**assistant("a"), "name": answers}
        return {**TALK, "prompt": [{**user("q"), "name": asks}], "chosen": [answer]}

    told = report(named("x", "z"), named("y", "z"), named("x", "y"), named("x", "z"))
    assert (told.duplicates, told.alike) == (Repeats(1, (4,)), Repeats(2, (2, 3)))
    assert told.unused_fields == {"name": 4}


def test_rows_that_are_left_out_beside_others_repeat_nothing():
    implicit = {"chosen": "q\na", "rejected": "q\nb"}
    explicit = {"prompt": "q\n", "chosen": "a", "rejected": "b"}
    told = report(implicit, implicit, explicit, explicit, on_bad_rows="skip")
    assert (told.kept, told.duplicates, told.alike) == (2, Repeats(1, (4,)), Repeats())
    assert report(implicit, implicit).duplicates == Repeats(1, (2,))


def test_a_value_nested_too_deep_is_told_and_counts_nowhere():
    deep = []
    for _ in range(5000):
        deep = [deep]
    thought = {**assistant("a"), "reasoning": deep}
    odd = [{**ROW, "id": 1, "x": deep}, {**TALK, "chosen": [thought]}]
    told = report(ROW, *odd, ROW, on_bad_rows="skip")
    assert (told.kept, told.skipped) == (2, {"nested too deep": 2})
    assert (told.unused_columns, told.duplicates) == ({}, Repeats(1, (4,)))


@pytest.mark.parametrize("name", ["question", "Instruction", "user_query", "inputs", "context"])
def test_a_column_that_looks_like_the_prompt_is_an_error(name):
    """Both answers begin with a line, so a prompt could be made of it, and the question lost."""
    row = {name: "Name a river.", "chosen": "Sure.\nElbe", "rejected": "Sure.\nLake"}
    for options in ({}, {"on_bad_rows": "skip"}):
        with pytest.raises(ValueError) as caught:
            report(row, **options)
        assert f"{name!r} looks like one, but no pair would hold it (row 1)" in str(caught.value)
        assert f"--columns prompt {name}, or columns={{'prompt': '{name}'}}" in str(caught.value)
    (pair,) = preferences_from_rows([row], columns={"prompt": name})
    assert (pair.prompt, pair.chosen) == ("Name a river.", "Sure.\nElbe")


def test_the_likeliest_of_several_columns_is_proposed():
    row = {"input": "river", "history": "h", "instruction": "Translate.", "id": "7"}
    with pytest.raises(ValueError, match="'instruction' looks like one .so does 'input'., but"):
        report({**row, "chosen": "Fluss", "rejected": "See"})


def test_the_row_that_is_named_is_one_that_has_the_column():
    answers = {"chosen": "Sure.\nElbe", "rejected": "Sure.\nLake"}
    with pytest.raises(ValueError, match=r"'prompts' looks like one .*'history'.*\(row 2\)"):
        report({"history": "h", **answers}, {"history": "h", "prompts": "p", **answers})


@pytest.mark.parametrize(
    "row",
    [
        # What the column says is in the prompt already.
        {"question": "hi", "chosen": "\n\nHuman: hi\n\nAssistant: a",
         "rejected": "\n\nHuman: hi\n\nAssistant: b"},
        # Whole conversations name the prompt by their roles.
        {"messages": [user("q"), assistant("a")], "chosen": [user("q"), assistant("a")],
         "rejected": [user("q"), assistant("b")]},
        # Nothing in it, or no prompt by its name.
        {"input": "", "chosen": "Q: x\nA: a", "rejected": "Q: x\nA: b"},
        {"system_prompt": "s", "prompt_id": "7", "source": "web", "chosen": "Q: x\nA: a",
         "rejected": "Q: x\nA: b"},
    ],
)  # fmt: skip
def test_no_error_where_the_prompt_is_known(row):
    told = report(row)
    assert told.kept == 1
    assert set(told.unused_columns) == set(row) - {"chosen", "rejected"}


def test_the_report_is_plain_values():
    rows = [{**ROW, "system": "s"}, {**ROW, "system": "t"}, {**ROW, "chosen": ""}]
    told = report(*rows, on_bad_rows="skip", name="mine")
    assert json.loads(json.dumps(told.as_dict())) == {
        "source": "mine",
        "rows": 3,
        "kept": 2,
        "skipped": {"empty": 1},
        "problems": [{"row": 3, "column": "chosen", "reason": "empty", "detail": ""}],
        "unused_columns": {"system": 2},
        "unused_fields": {},
        "duplicates": {"count": 0, "rows": []},
        "alike": {"count": 1, "rows": [2]},
        "ties": 0,
        "what": "pairs",
        "layout": "",
    }


def test_built_in_data_use_all_they_have():
    for name in ("reviews", "places"):
        told = load_preferences(name, limit=50).report
        assert (told.unused_columns, told.unused_fields) == ({}, {})


def test_values_of_any_kind_are_counted():
    """Rows in memory may hold what no file can: arrays, names that are no text."""
    numpy = pytest.importorskip("numpy")
    odd = {"x": numpy.arange(3), "y": {1: "a", "b": object}, 7: b""}
    told = report({**ROW, **odd}, {**ROW, **odd})
    assert told.unused_columns == {"x": 2, "y": 2, "7": 2}
    assert (told.duplicates.count, told.alike.count) == (1, 0)


# Shapes of conversations


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": assistant("a"), "rejected": assistant("b")},
        {"prompt": user("q"), "chosen": [assistant("a")], "rejected": assistant("b")},
        {**TALK, "chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]},
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": "q"}]}],
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "a"}]}],
            "rejected": [assistant("b")],
        },
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        {"prompt": " q ", "chosen": [user("q"), assistant("a")],
         "rejected": [user("q"), assistant("b")]},
    ],
    ids=["object", "objects", "whole", "parts", "sharegpt", "text beside whole"],
)  # fmt: skip
def test_conversations_are_read_in_the_shapes_they_come_in(row):
    (pair,) = preferences_from_rows([row])
    assert (pair.prompt, pair.chosen, pair.rejected) == PAIR
    assert not preferences_from_rows([row]).report.unused_columns


def test_one_message_in_a_cell_of_csv_is_read_and_other_objects_are_text(tmp_path):
    cells = [json.dumps(user("q")), json.dumps(assistant("a")), json.dumps([assistant("b")])]
    texts = ["q", '{"value": 1}', '{"content": "a", half']
    rows = ["prompt,chosen,rejected"]
    rows += [",".join('"' + c.replace('"', '""') + '"' for c in row) for row in (cells, texts)]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    first, second = load_preferences(tmp_path / "a.csv")
    assert (first.prompt, first.chosen, first.rejected) == PAIR
    assert [second.prompt, second.chosen, second.rejected] == texts


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "saved", "rows"])
def test_messages_written_as_json_are_messages_in_every_source(tmp_path, name):
    """Text that is no list of messages stays text, and Python's own writing of one is refused."""
    datasets = pytest.importorskip("datasets")
    talk = {**TALK, "chosen": [{**assistant("a"), "name": "Ada"}]}
    texts = {"prompt": '[{"content": 1}]', "chosen": '[{"value": 1}] and', "rejected": "[1, {}]"}
    half = {"prompt": str(TALK["prompt"]), "chosen": "a", "rejected": "b"}
    rows = [{column: json.dumps(value) for column, value in talk.items()}, texts, half]
    table, options = datasets.Dataset.from_list(rows), {"on_bad_rows": "skip"}
    if name == "rows":
        found = preferences_from_rows(table, **options)
    else:
        writers = {"a.csv": table.to_csv, "a.jsonl": table.to_json, "a.parquet": table.to_parquet}
        writers.get(name, table.save_to_disk)(tmp_path / name)
        found = load_preferences(tmp_path / name, **options)
    first, second = found
    assert (first.prompt, first.chosen, first.rejected) == PAIR
    assert found.report.unused_fields == {"name": 1}
    assert {side: getattr(second, side) for side in texts} == texts
    (problem,) = found.report.problems
    assert (problem.row, problem.column) == (3, "prompt")
    assert problem.reason == "truncated or malformed JSON"


def test_a_sharegpt_prompt_written_as_json_is_the_prompt():
    said = {"chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}
    asked = json.dumps([{"from": "human", "value": "q"}])
    (pair,) = preferences_from_rows([{"conversations": asked, **said}])
    assert (pair.prompt, pair.chosen, pair.rejected) == PAIR


def test_several_text_parts_are_joined_as_templates_join_them():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": " b"}]
    (pair,) = preferences_from_rows([{**TALK, "prompt": [{"role": "user", "content": parts}]}])
    assert pair.prompt == [user("a b")]


def test_sharegpt_roles_are_the_labs(tmp_path):
    said = [("system", "s"), ("human", "q"), ("gpt", "?"), ("observation", "18 C")]
    row = {
        "conversations": [{"from": role, "value": text} for role, text in said],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    }
    (pair,) = preferences_from_rows([row])
    assert [m["role"] for m in pair.prompt] == ["system", "user", "assistant", "tool"]
    with pytest.raises(ValueError, match="unknown role .'bot'."):
        preferences_from_rows([{**row, "chosen": {"from": "bot", "value": "a"}}])
