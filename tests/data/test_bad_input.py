"""Every kind of bad input that a user can give, each with the message it must get."""

import gzip
import json
import warnings

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dpo_lab.cli.commands import main
from dpo_lab.cli.logps import Logps
from dpo_lab.data.batching import PairSampler
from dpo_lab.data.held_out import load_train_and_held_out, split_by_prompt
from dpo_lab.data.preferences import load_preferences, preferences_from_rows
from dpo_lab.data.problems import BadRows, SkippedRows
from dpo_lab.data.tokenized_pairs import tokenize_pairs
from dpo_lab.training.config import TrainConfig

GOOD = {"prompt": "Where is it?", "chosen": "Here.", "rejected": "There."}
USER = [{"role": "user", "content": "hi"}]


def answer(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


TALK = {"prompt": USER, "chosen": answer("a b"), "rejected": answer("c")}


def lines(*rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def letter_tokenizer(**special) -> PreTrainedTokenizerFast:
    """One token a letter; letters it does not know vanish."""
    letters = ["<end>", "a", "b", "c", "d", "Q"]
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{"eos_token": "<end>", **special})


def load(name: str, content: str | bytes, **options):
    """Write a file and load it."""

    def case(folder):
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
        return load_preferences(folder / name, **{"on_bad_rows": "raise"} | options)

    return case


def row(**changes):
    """Load two rows: a good one, and one with changes (a value of `...` takes the column away)."""
    bad = {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}
    return load("rows.jsonl", lines(GOOD, bad))


def talk(**changes):
    return load("rows.jsonl", lines(TALK, {**TALK, **changes}))


def tokenize(rows, tokenizer=None, **options):
    return lambda folder: tokenize_pairs(
        preferences_from_rows(rows),
        tokenizer or letter_tokenizer(),
        **{"on_bad_rows": "raise"} | options,
    )


def folder_with(*names: str, split="train", loader=load_preferences):
    def case(folder):
        for name in names:
            (folder / name).write_text(lines(GOOD))
        return loader(folder, split)

    return case


def parquet(chosen: pyarrow.Array):
    def case(folder):
        table = pyarrow.table({"prompt": ["q"], "chosen": chosen, "rejected": ["b"]})
        pyarrow.parquet.write_table(table, folder / "rows.parquet")
        return load_preferences(folder / "rows.parquet", on_bad_rows="raise")

    return case


# Arrow does not look into what it is told is text.
NOT_UTF8 = pyarrow.Array.from_buffers(
    pyarrow.string(),
    1,
    [None, pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"a\xff")],
)


def saved(split: str, without: str = "nothing"):
    def case(folder):
        DatasetDict({"train": Dataset.from_list([GOOD])}).save_to_disk(folder / "saved")
        (folder / "saved" / "train" / without).unlink(missing_ok=True)
        return load_preferences(folder / "saved", split)

    return case


# Begins with the number of messages, so an answer changes what stands before it.
REWRITES = "{{ messages | length }}{{ messages[-1].content }}<end>"
REFUSES = "{{ raise_exception('no system message') }}"
ABC = {"prompt": "Q", "chosen": "a b c", "rejected": "a b d"}
ONE_PROMPT = [GOOD, {**GOOD, "chosen": "Elsewhere."}]

CASES = {
    # a field
    "chosen missing": (row(chosen=...), "row 2, 'chosen': missing (the row has: prompt, rejected"),
    "rejected missing": (row(rejected=...), "row 2, 'rejected': missing"),
    "prompt missing in one row": (
        row(prompt=..., chosen="So a", rejected="So b"), "row 2, 'prompt': missing, though other"
    ),
    "null": (row(chosen=None), "row 2, 'chosen': missing (null)"),
    "NaN": (row(rejected=float("nan")), "row 2, 'rejected': missing (null)"),
    "empty text": (row(chosen=""), "row 2, 'chosen': empty"),
    "only spaces": (row(rejected=" \n "), "row 2, 'rejected': empty"),
    "empty prompt": (row(prompt=" "), "row 2, 'prompt': empty"),
    "number": (row(chosen=3), "row 2, 'chosen': wrong type (int, not text"),
    "truth value": (row(rejected=True), "row 2, 'rejected': wrong type (bool"),
    "object": (row(chosen={"a": 1}), "row 2, 'chosen': wrong type (dict"),
    "text against messages": (
        row(rejected=answer("x")), "row 2, 'rejected': wrong type (messages, but chosen is text)"
    ),
    "messages as prompt of texts": (row(prompt=USER), "row 2, 'prompt': wrong type (messages, but"),
    "equal answers": (row(rejected="Here."), "row 2, 'rejected': equal to chosen"),
    "lone surrogate": (row(chosen="\ud800"), "row 2, 'chosen': undecodable bytes (not UTF-8)"),
    "no shared prompt": (
        load("rows.jsonl", lines({"chosen": "yes", "rejected": "no"})),
        "row 1, 'prompt': missing, and chosen and rejected share no prompt",
    ),
    "nothing after the shared prompt": (
        load("rows.jsonl", lines({
            "chosen": "\n\nHuman: hi\n\nAssistant:", "rejected": "\n\nHuman: hi\n\nAssistant: yes"
        })),
        "row 1, 'chosen': empty response",
    ),
    "nothing after the shared prompt, rejected": (
        load("rows.jsonl", lines({
            "chosen": "\n\nHuman: hi\n\nAssistant: yes", "rejected": "\n\nHuman: hi\n\nAssistant: "
        })),
        "row 1, 'rejected': empty response",
    ),
    "shared words that are no prompt": (
        load("rows.jsonl", lines({"chosen": "It is 42.", "rejected": "It is 43."})),
        "row 1, 'prompt': missing, and chosen and rejected share no prompt (both begin with 'It is "
        "4', which ends at no turn and no line)",
    ),
    "conversations that part before their last turn": (
        load("rows.jsonl", lines({
            "chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
            "rejected": "\n\nHuman: a\n\nAssistant: x\n\nHuman: c\n\nAssistant: d",
        })),
        "row 1, 'chosen': several turns in an answer ('Human:' in it",
    ),
    "the other side in an answer": (
        row(rejected="There.\n\nHuman: Where?"),
        "row 2, 'rejected': several turns in an answer ('Human:' in it",
    ),
    "a second turn of the assistant": (
        row(prompt="\n\nHuman: hi\n\nAssistant:", chosen=" a\n\nAssistant: b"),
        "row 2, 'chosen': several turns in an answer ('Assistant:' in it",
    ),
    "an answer as the other side": (
        row(prompt="\n\nHuman: hi\n\nAssistant:", rejected=" Human: hi"),
        "row 2, 'rejected': several turns in an answer ('Human:' in it",
    ),
    "a column that looks like the prompt": (
        load("rows.jsonl", lines({"question": "Who?", "chosen": "I.\na", "rejected": "I.\nb"})),
        "rows.jsonl (train): there is no column 'prompt', and 'question' looks like one, but no "
        "pair would hold it (row 1). Map it: --columns prompt question",
    ),
    # a conversation
    "a part that is no text": (
        talk(prompt=[{"role": "user", "content": [{"type": "image", "url": "x"}]}]),
        "row 2, 'prompt': wrong type (content of the user has a part of type 'image'; only text",
    ),
    "a prompt beside other conversations": (
        talk(prompt="Hello?", chosen=[*USER, *answer("a")], rejected=[*USER, *answer("b")]),
        "row 2, 'prompt': not the prompt of the conversations ('Hello?', but chosen and rejected "
        "begin with 'hi'",
    ),
    "a call of a tool in ShareGPT's words": (
        talk(chosen=[{"from": "function_call", "value": "f()"}]),
        "row 2, 'chosen': truncated or malformed JSON (",
    ),
    "no message": (talk(chosen=[]), "row 2, 'chosen': empty (a list of no messages)"),
    "message without content": (
        talk(prompt=[{"role": "user"}]), "row 2, 'prompt': wrong type (a message is no object"
    ),
    "message that is text": (talk(prompt=["hi"]), "row 2, 'prompt': wrong type (a message is no"),
    "content that is a list": (
        talk(prompt=[{"role": "user", "content": ["hi"]}]),
        "row 2, 'prompt': wrong type (content of the user is list, not text)",
    ),
    "unknown role": (
        talk(prompt=[{"role": "human", "content": "hi"}]), "row 2, 'prompt': unknown role ('human')"
    ),
    "empty message": (talk(chosen=answer(" ")), "row 2, 'chosen': empty (message of the assistant"),
    "prompt ends with the assistant": (
        talk(prompt=[*USER, *answer("hello")]),
        "row 2, 'chosen': roles out of order (assistant after the assistant; ",
    ),
    "system in the middle": (
        talk(prompt=[*USER, {"role": "system", "content": "s"}, *USER]),
        "row 2, 'prompt': roles out of order (user system user",
    ),
    "two turns of the user": (talk(prompt=USER * 2), "row 2, 'prompt': roles out of order (user u"),
    "answer by the user": (talk(chosen=USER), "row 2, 'chosen': roles out of order (user after"),
    "two messages of the assistant": (
        talk(chosen=[*answer("a"), *answer("b")]),
        "row 2, 'chosen': roles out of order (assistant assistant after the user",
    ),
    "a conversation that is the other's beginning": (
        talk(chosen=answer("a"), rejected=[*answer("a"), *USER]),
        "row 2, 'chosen': no answer of its own (after what both conversations share)",
    ),
    "tools that are no list of objects": (
        talk(tools=[1]),
        "row 2, 'tools': wrong type (not a list of tools, each an object)",
    ),
    "tool call": (
        talk(chosen=[{"role": "assistant", "content": "", "tool_calls": [1]}]),
        "row 2, 'chosen': a tool call that cannot be read (it must be {",
    ),
    # a file
    "row that is a list": (load("a.jsonl", lines(GOOD, [1])), "row 2: wrong type (list, not an"),
    "truncated line": (load("a.jsonl", lines(GOOD)[:-9]), "row 1: truncated or malformed JSON ("),
    "truncated line behind a blank one": (
        load("a.jsonl", "\n" + lines(GOOD) + '{"a'), "row 3: truncated or malformed JSON ("
    ),
    "bytes that are not UTF-8": (
        load("a.jsonl", lines(GOOD).encode().replace(b"Here", b"H\xff")),
        "row 1, 'chosen': undecodable bytes (not UTF-8)",
    ),
    "JSON nested without end": (
        load("a.jsonl", "[" * 100_000), "row 1: truncated or malformed JSON (maximum recursion"
    ),
    "UTF-16": (load("a.jsonl", lines(GOOD).encode("utf-16")), "its text is UTF-16"),
    "empty file": (load("a.jsonl", ""), "a.jsonl: it is empty"),
    "byte order mark alone": (load("a.jsonl", b"\xef\xbb\xbf"), "a.jsonl: it is empty"),
    "broken gzip": (
        load("a.jsonl.gz", gzip.compress(lines(GOOD).encode())[:-12]), "broken gzip file"
    ),
    "no gzip at all": (load("a.jsonl.gz", lines(GOOD)), "broken gzip file (Not a gzipped file"),
    "truncated JSON file": (load("a.json", "[" + lines(GOOD)), "truncated or malformed JSON"),
    "JSON object": (
        load("a.json", json.dumps({"rows": [GOOD]}, indent=1)), "holds a dict, not a list of rows"
    ),
    "ids of a sampled response nested without end": (
        row(chosen_sampled="[" * 200_000), "row 2, 'chosen_sampled': not the ids of a sampled"
    ),
    "messages nested without end": (
        load("a.csv", 'prompt,chosen,rejected\nq,"[{""role"": ' + "[" * 200_000 + '",b\n'),
        "row 1, 'chosen': truncated or malformed JSON (",
    ),
    "JSON of messages nested without end": (
        row(chosen='[{"role": ' + "[" * 200_000), "row 2, 'chosen': truncated or malformed JSON ("
    ),
    "a role that is a list": (
        talk(chosen=[{"from": ["gpt"], "value": "a"}]), "row 2, 'chosen': unknown role (['gpt'])"
    ),
    "JSON of no rows": (load("a.json", "[]"), "it is empty. A data set needs at least one pair"),
    "CSV with a field too many": (
        load("a.csv", "prompt,chosen,rejected\nq,a,b,c\n"), "row 1: more fields than the header"
    ),
    "CSV with a field too few": (
        load("a.csv", "prompt,chosen,rejected\nq,a\n"), "row 1, 'rejected': missing (null)"
    ),
    "CSV with an open quote": (
        load("a.csv", 'prompt,chosen,rejected\nq,"a,b\n'), "row 1: malformed CSV"
    ),
    "CSV with a quote that is closed nowhere": (
        load("a.csv", 'prompt,chosen,rejected\nq,a,b\nq,"a,b\n' + "q,c,d\n" * 50),
        "a.csv: malformed CSV from line 3 to line 53 (unexpected end of data), so that where rows",
    ),
    "CSV with a quote that is closed in another row": (
        load("a.csv", 'prompt,chosen,rejected\n\nq,"a,b\nq,c,d\nq,"e",f\nq,g,h\n'),
        "a.csv: malformed CSV from line 3 to line 5 (",
    ),
    "CSV with a column twice": (
        load("a.csv", "prompt,chosen,chosen\nq,a,b\n"), "its header names 'chosen' twice"
    ),
    "CSV that is not UTF-8": (
        load("a.csv", b"prompt,chosen,rejected\nq,a,b\nq,\xe9,b\n"),
        "row 2, 'chosen': undecodable bytes",
    ),
    "CSV without our columns": (load("a.csv", "x,y\n1,2\n"), "row 1, 'chosen': missing (the"),
    "CSV with a broken header": (
        load("a.csv", '"prompt"x,chosen,rejected\nq,a,b\n'), "its header is malformed CSV"
    ),
    "CSV with half a list of messages": (
        load("a.csv", "prompt,chosen,rejected\nq,\"[{'role': 'assistant'\",b\n"),
        "row 1, 'chosen': truncated or malformed JSON (",
    ),
    "parquet of numbers": (parquet([1]), "row 1, 'chosen': wrong type (int"),
    "parquet of structs": (parquet([{"role": "x"}]), "row 1, 'chosen': wrong type (dict"),
    "parquet of bytes": (parquet([b"a"]), "row 1, 'chosen': wrong type (bytes"),
    "parquet that is not UTF-8": (parquet(NOT_UTF8), "row 1, 'chosen': undecodable bytes"),
    "no parquet": (load("a.parquet", "PAR1"), "not a readable parquet file"),
    "unknown kind of file": (load("a.xlsx", "x"), "a.xlsx: unknown kind of file"),
    # a source
    "no such file": (lambda _: load_preferences("nowhere.jsonl"), "nowhere.jsonl: no such file"),
    "name of nothing": (lambda _: load_preferences("review"), "review: no such file or folder"),
    "no such path": (lambda _: load_preferences("./x/y"), "./x/y: no such file or folder"),
    "no such hub data set": (
        lambda _: load_preferences("nobody/nothing"), "nobody/nothing: no such file or folder here"
    ),
    "folder without data": (folder_with(), "no file for the split 'train' among: no data file"),
    "folder without the split": (
        folder_with("train.jsonl", split="dev"), "no file for the split 'dev' among: train.jsonl"
    ),
    "folder of held-out rows alone": (folder_with("test.jsonl"), "no file for the split 'train'"),
    "two files for a split": (
        folder_with("train-1.jsonl", "train-2.jsonl"), "more than one file for the split 'train'"
    ),
    "saved data set without the split": (saved("test"), "no split 'test' among: train"),
    "saved data set without its rows": (
        saved("train", without="data-00000-of-00001.arrow"), "not a readable folder of save_to_disk"
    ),
    # an option
    "column that no pair has": (
        load("a.jsonl", lines(GOOD), columns={"question": "prompt"}),
        "columns: 'question' is no column of a preference pair",
    ),
    "column that the data does not have": (
        load("a.jsonl", lines(GOOD), columns={"prompt": "question"}),
        "row 1, 'question': missing (the row has: prompt, chosen, rejected)",
    ),
    "limit 0": (load("a.jsonl", lines(GOOD), limit=0), "limit=0: must be at least 1"),
    "misspelt on_bad_rows": (
        load("a.jsonl", lines(GOOD), on_bad_rows="ignore"), "on_bad_rows='ignore': must be 'raise'"
    ),
    "no problem to be named": (
        load("a.jsonl", lines(GOOD), max_problems=0), "max_problems=0: must be at least 1"
    ),
    "all rows bad, skipped": (
        load("a.jsonl", lines({}), on_bad_rows="skip"), "none of its 1 rows can be used (row 1"
    ),
    "one prompt to split": (
        lambda _: split_by_prompt(preferences_from_rows(ONE_PROMPT), 0.5),
        "all 2 pairs share one prompt",
    ),
    "share above 1": (
        lambda _: split_by_prompt(preferences_from_rows(ONE_PROMPT), 1.5), "held_out=1.5: must be"
    ),
    "held-out prompts all trained on": (
        folder_with("train.jsonl", "test.jsonl",
                    loader=lambda folder, split: load_train_and_held_out(folder)),
        "every prompt is trained on, too",
    ),
    "batch of no pairs": (lambda _: PairSampler(10, 0, 0), "batch_pairs=0: must be between 1 and"),
    "batch of more than all pairs": (lambda _: PairSampler(10, 11, 0), "batch_pairs=11: must be"),
    # tokens
    "max_length 1": (tokenize([ABC], max_length=1), "max_length=1: must be at least 2"),
    "max_prompt_length 0": (tokenize([ABC], max_prompt_length=0), "max_prompt_length=0: must be"),
    "prompt without a token": (
        tokenize([{**ABC, "prompt": "?"}]), "row 1, 'prompt': no token in the prompt"
    ),
    "response without a token": (
        tokenize([{**ABC, "chosen": "?"}]), "row 1, 'chosen': no token in the response"
    ),
    "end token inside a response": (
        tokenize([{**ABC, "rejected": "a <end> b"}]), "row 1, 'rejected': an end token inside"
    ),
    "answers of the same tokens": (
        tokenize([{**ABC, "rejected": "a  b c"}]), "row 1, 'rejected': same tokens as chosen"
    ),
    "response empty after truncation": (
        tokenize([{**ABC, "prompt": "Q Q Q"}], max_length=3, max_prompt_length=3),
        "row 1, 'chosen': response empty after truncation",
    ),
    "responses equal after truncation": (
        tokenize([ABC], max_length=3), "row 1, 'rejected': responses equal after truncation"
    ),
    "nothing left": (
        tokenize([ABC], max_length=3, on_bad_rows="skip"), "no pair is left after tokenising"
    ),
    "tokenizer without an end": (
        tokenize([ABC], letter_tokenizer(eos_token=None)), "has no eos_token"
    ),
    "conversation without a template": (tokenize([TALK]), "has no chat template"),
    "template that rewrites the prompt": (
        tokenize([TALK], letter_tokenizer(chat_template=REWRITES)),
        "row 1, 'prompt': rewritten by the chat template (an answered conversation does not begin",
    ),
    "template that refuses": (
        tokenize([TALK, TALK], letter_tokenizer(chat_template=REFUSES)),
        "row 2, 'prompt': refused by the chat template (no system message)",
    ),
    "misspelt on_bad_rows, in tokens": (tokenize([ABC], on_bad_rows="drop"), "on_bad_rows='drop'"),
}  # fmt: skip


def test_there_are_more_than_forty_kinds():
    assert len(CASES) > 40
    assert len({message for _, message in CASES.values()}) > 40


@pytest.mark.parametrize(("case", "message"), CASES.values(), ids=CASES)
def test_bad_input_is_named(tmp_path, case, message):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        case(tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).count(". ") >= 1 or str(caught.value).endswith(".")


def test_all_bad_rows_are_told_at_once_up_to_the_limit(tmp_path):
    bad = {**GOOD, "chosen": ""}
    with pytest.raises(BadRows) as caught:
        load("rows.jsonl", lines(*[bad] * 7, GOOD), max_problems=3)(tmp_path)
    text = str(caught.value)
    assert "7 of 8 rows cannot be used" in text
    assert [f"row {n}, 'chosen': empty" in text for n in range(1, 8)] == [True] * 3 + [False] * 4
    assert "and 4 more" in text


BAD = ({**GOOD, "chosen": ""}, {**GOOD, "rejected": "Here."}, {**GOOD, "prompt": 3}, {}, [])


@given(st.lists(st.sampled_from([GOOD, *BAD]), min_size=1, max_size=30))
def test_skipping_loses_nothing_silently(rows):
    good = sum(row == GOOD for row in rows)
    if not good:
        with pytest.raises(ValueError, match=f"none of its {len(rows)} rows can be used"):
            preferences_from_rows(rows, on_bad_rows="skip")
        return
    kept = preferences_from_rows(rows, on_bad_rows="skip")
    assert len(kept) == kept.report.kept == good
    assert kept.report.kept + sum(kept.report.skipped.values()) == kept.report.rows == len(rows)
    assert [pair.row for pair in kept] == [n for n, row in enumerate(rows, 1) if row == GOOD]


def test_a_file_that_one_command_takes_is_taken_by_all(tmp_path):
    """Bad rows are skipped by default everywhere, and a caller who did not say so is warned."""
    assert TrainConfig().on_bad_rows == Logps().on_bad_rows == "skip"
    path = tmp_path / "a.jsonl"
    path.write_text(lines(GOOD, {**GOOD, "chosen": ""}, {**GOOD, "prompt": "Who?"}))
    said = "2 pairs from 3 rows, skipped: 1 empty .row 2.. Say on_bad_rows='skip' if that is right"
    with pytest.warns(SkippedRows, match=said) as caught:
        pairs = load_preferences(path)
    assert caught[0].filename == __file__
    with pytest.warns(SkippedRows, match=said):
        assert len(preferences_from_rows([GOOD, {**GOOD, "chosen": ""}, ABC])) == 2
    with pytest.warns(SkippedRows, match=said):
        load_train_and_held_out(path, held_out=0.5)
    rows = [{"prompt": "Q", "chosen": "a", "rejected": side} for side in ("b", "?", "c")]
    said = "2 pairs tokenised, 1 dropped .no token in the response.. Say on_bad_rows='skip'"
    with pytest.warns(SkippedRows, match=said) as caught:
        tokenize_pairs(preferences_from_rows(rows), letter_tokenizer())
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_preferences(path, on_bad_rows="skip").pairs == pairs.pairs
        load_train_and_held_out(path, held_out=0.5, on_bad_rows="skip")
        tokenize_pairs(preferences_from_rows(rows), letter_tokenizer(), on_bad_rows="skip")
        load_preferences("reviews", limit=5)


def test_logps_names_the_rows_of_what_it_scored(tmp_path, capsys):
    rows = [{"prompt": "the plot was", "chosen": side, "rejected": "bad"} for side in ("", "good")]
    (tmp_path / "a.jsonl").write_text(lines(*rows))
    main(["logps", "--data", str(tmp_path / "a.jsonl"), "--json"])
    printed = capsys.readouterr()
    assert [json.loads(line)["row"] for line in printed.out.splitlines()] == [2]
    assert "1 pairs from 2 rows, skipped: 1 empty (row 1)" in printed.err
