"""Responses that a model sampled are trained by their ids, not by what their text encodes to."""

from __future__ import annotations

import csv
import json
import random

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dpo_lab.analysis.token_report import pair_tokens
from dpo_lab.data.flips import flip_labels
from dpo_lab.data.pairs import pair_row
from dpo_lab.data.preferences import load_preferences, preferences_from_rows
from dpo_lab.data.problems import BadRows
from dpo_lab.data.sampled import Sampled
from dpo_lab.data.sampled_reader import AS_SAMPLED, CHANGED, CUT, OTHER_TOKENIZER, UNKNOWN
from dpo_lab.data.text_to_ids import Encoder
from dpo_lab.data.tokenized_pairs import tokenize_pairs

LINES = ["The plot was slow", "the plots were slowly told", "plotting was it"] * 9
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eot>{% endfor %}<assistant>"


def tokenizer(kind: str, first: str = "<eos>", **options) -> PreTrainedTokenizerFast:
    """Byte-level, SentencePiece-like (a space in front of a text, dropped again) or WordPiece."""
    special = list(dict.fromkeys([first, "<eos>", "<eot>", "<unk>"]))
    common = {"special_tokens": special, "show_progress": False, "vocab_size": 400}
    if kind == "byte-level":
        made, alphabet = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel.alphabet()
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(initial_alphabet=alphabet, **common)
    elif kind == "sentencepiece":
        made = Tokenizer(models.BPE(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        made.decoder = decoders.Metaspace(prepend_scheme="always")
        trainer = trainers.BpeTrainer(**common)
    else:
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.normalizer = normalizers.Lowercase()
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(**common)
    made.train_from_iterator(LINES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", **options)


def sampled(some, ids, ended: bool) -> tuple[str, Sampled]:
    """What a model that sampled these ids gives: text without outer white space, and the ids."""
    encoder = Encoder(some)
    ids = (*ids, encoder.end_ids[-1]) if ended else tuple(ids)
    text = some.decode(ids, skip_special_tokens=True).strip()
    return text, Sampled(ids, ended, encoder.fingerprint)


def row(prompt, chosen: tuple[str, Sampled], rejected: tuple[str, Sampled]) -> dict:
    return pair_row(prompt, chosen[0], rejected[0], chosen[1], rejected[1])


def spelled(some, word: str = "slow") -> list[int]:
    """A word's letters one by one, as no tokenizer would encode its text."""
    after = "##" if "##o" in some.get_vocab() else ""
    ids = some.convert_tokens_to_ids([word[0], *(after + letter for letter in word[1:])])
    assert some.unk_token_id not in ids and None not in ids
    return ids


def some_rows(some, prompt, count: int = 30, seed: int = 0) -> list[dict]:
    """Pairs that begin with a word spelled out, every other one cut; no two texts are equal."""
    draw, rows = random.Random(seed), []
    letters = [i for i in range(4, len(some)) if some.decode([i]).strip().isalnum()]
    while len(rows) < count:
        words = [spelled(some) + draw.choices(letters, k=2) for _ in range(2)]
        sides = [sampled(some, ids, bool(len(rows) % 2)) for ids in words]
        if sides[0][0] != sides[1][0]:
            rows.append(row(prompt, *sides))
    return rows


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece", "wordpiece"])
def test_trained_ids_are_the_sampled_ids_where_text_would_give_others(tmp_path, kind, chat):
    some = tokenizer(kind, chat_template=CHAT if chat else None)
    prompt = [{"role": "user", "content": "the plot"}] if chat else "the plot"
    rows = some_rows(some, prompt)
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    tokens = tokenize_pairs(load_preferences(file), some)
    assert len(tokens) == len(rows)
    for pair, one in zip(tokens, rows, strict=True):
        for side in ("chosen", "rejected"):
            ids = getattr(pair, side)
            assert list(ids) == one[f"{side}_sampled"]["ids"]
            ended = one[f"{side}_sampled"]["ended"]
            ends = [token in Encoder(some).end_ids for token in ids]
            assert ends == [False] * 6 + [True] * ended
        assert pair.prompt == Encoder(some).prompts([prompt])[0]
    assert tokens.sampled == {AS_SAMPLED: 60, CUT: 30}
    as_text = [{name: one[name] for name in ("prompt", "chosen", "rejected")} for one in rows]
    read = tokenize_pairs(preferences_from_rows(as_text), some, on_bad_rows="skip")
    own = {pair.row: pair for pair in tokens}
    assert len(read) > 20
    assert all(own[pair.row].chosen[:4] != pair.chosen[:4] for pair in read), "a real test"


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece", "wordpiece"])
def test_with_another_tokenizer_the_text_is_read_and_a_cut_answer_gets_no_end(kind):
    theirs, ours = tokenizer(kind, "<another>"), tokenizer(kind)
    ended, cut = (sampled(theirs, theirs("the plot").input_ids, end) for end in (True, False))
    other = sampled(theirs, theirs("slow").input_ids, True)
    tokens = tokenize_pairs(
        preferences_from_rows([row("was", ended, other), row("was", other, cut)]), ours
    )
    whole = ours("wasthe plot").input_ids  # prompt and answer joined
    words, eos = whole[len(ours("was").input_ids) :], ours.eos_token_id
    assert whole[: -len(words)] == ours("was").input_ids
    assert tokens[0].chosen == (*words, eos) and tokens[1].rejected == tuple(words)
    assert tokens.sampled == {OTHER_TOKENIZER: 4, CUT: 1}
    assert f"4 responses {OTHER_TOKENIZER}, 1 response {CUT}" in str(tokens)


def test_ids_that_the_model_has_no_embedding_for_are_not_scored():
    """A tokenizer of more ids than the model: the text is read, and may be refused for the same."""
    some = tokenizer("byte-level")
    low, high = some("it").input_ids, [len(some) - 1]
    assert max(low) < len(some) - 1
    padding = Sampled((*low, len(some) + 5), False, Encoder(some).fingerprint)
    beyond = row("p", ("it", padding), sampled(some, spelled(some), True))
    unknown = row("p", sampled(some, high, True), sampled(some, low, True))
    found = preferences_from_rows([beyond, unknown])
    (pair,) = tokenize_pairs(found, some, vocabulary=len(some) - 1, on_bad_rows="skip")
    assert pair.row == 1 and pair.chosen == tuple(low)
    assert pair.rejected == (*spelled(some), some.eos_token_id)
    tokens = tokenize_pairs(found, some, vocabulary=len(some) - 1, on_bad_rows="skip")
    assert tokens.sampled == {UNKNOWN: 2, CUT: 1, AS_SAMPLED: 2}
    assert tokens.dropped == {"a token that the model has no embedding for": 1}
    # With room for all of them they are scored: the padding of an embedding has no text.
    assert tokenize_pairs(found, some, vocabulary=len(some) + 6)[0].chosen == padding.ids


def test_a_chat_answer_that_was_cut_gets_no_end_of_turn_from_the_template():
    some = tokenizer("byte-level", chat_template=CHAT)
    prompt = [{"role": "user", "content": "was it"}]
    words = some("the plot", add_special_tokens=False).input_ids
    text, known = sampled(some, words, False)
    foreign = Sampled(known.ids, False, "of another")
    rows = [row(prompt, (text, foreign), sampled(some, words[:1], True))]
    (pair,) = tokenize_pairs(preferences_from_rows(rows), some)
    assert pair.chosen == tuple(words)
    assert pair.rejected == (words[0], some.convert_tokens_to_ids("<eot>"))


def test_a_text_that_was_edited_is_what_is_trained_and_the_other_side_keeps_its_ids():
    some = tokenizer("sentencepiece")
    split = spelled(some)
    one = row("the plot was", sampled(some, split, True), sampled(some, split[:2], False))
    one["chosen"] = "it"
    tokens = tokenize_pairs(preferences_from_rows([one]), some)
    asked = some("the plot was").input_ids
    whole = some("the plot wasit").input_ids
    assert whole[: len(asked)] == asked
    assert tokens[0].chosen == (*whole[len(asked) :], some.eos_token_id)
    assert tokens[0].rejected == tuple(split[:2])
    assert tokens.sampled == {CHANGED: 1, AS_SAMPLED: 1, CUT: 1}


def test_old_rows_and_new_ones_stand_in_one_file_in_their_order():
    some = tokenizer("byte-level")
    new = some_rows(some, "the plot", 2)
    old = [{"prompt": "p", "chosen": "slow", "rejected": "it"}, {**new[0], "chosen_sampled": None}]
    tokens = tokenize_pairs(preferences_from_rows([old[0], new[0], old[1], new[1]]), some)
    assert [pair.row for pair in tokens] == [1, 2, 3, 4]
    assert tokens[0].chosen == (*some("slow").input_ids, some.eos_token_id)
    assert tokens[2].rejected == tokens[1].rejected == tuple(new[0]["rejected_sampled"]["ids"])


def test_one_token_is_an_answer_and_an_end_token_alone_is_none():
    some = tokenizer("byte-level")
    eos, word = some.eos_token_id, some("it").input_ids[0]
    print_of = Encoder(some).fingerprint
    rest = sampled(some, some("slow").input_ids, True)
    (pair,) = tokenize_pairs(
        preferences_from_rows([row("p", sampled(some, [word], False), rest)]), some
    )
    assert pair.chosen == (word,)
    empty = [row("p", rest, (" ", Sampled((eos,), True, print_of)))]
    empty[0]["rejected"] = "x"  # an empty text would be refused before
    (pair,) = tokenize_pairs(preferences_from_rows(empty), some)
    assert pair.rejected[-1] == eos and len(pair.rejected) == 2


WRONG = {
    "no object": 7,
    "text that is no JSON": "{'ids': [1]}",
    "no ids": {"ended": True, "tokenizer": "a"},
    "ids that are text": {"ids": "12", "ended": True, "tokenizer": "a"},
    "an empty list": {"ids": [], "ended": True, "tokenizer": "a"},
    "ids that are no ids": {"ids": [1, -1], "ended": True, "tokenizer": "a"},
    "ids that are truths": {"ids": [True], "ended": True, "tokenizer": "a"},
    "ids too large": {"ids": [2**40], "ended": True, "tokenizer": "a"},
    "ended in words": {"ids": [1], "ended": "yes", "tokenizer": "a"},
    "no tokenizer": {"ids": [1], "ended": True},
}


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
def test_what_is_no_sampled_response_is_named_by_row_and_column(value):
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b", "rejected_sampled": value}]
    with pytest.raises(BadRows, match="row 1, 'rejected_sampled': not the ids of a sampled"):
        preferences_from_rows(rows, on_bad_rows="raise")


def test_the_ids_follow_the_columns_names_and_none_vanishes():
    """Columns that change places take their ids along; those of no response are named as unused."""
    some = tokenizer("byte-level")
    rows = some_rows(some, "the plot", 4)
    turned = {"chosen": "rejected", "rejected": "chosen"}
    found = preferences_from_rows(rows, columns=turned)
    assert tokenize_pairs(found, some).sampled == {AS_SAMPLED: 8, CUT: 4}
    assert [list(p.chosen_sampled.ids) for p in found] == [
        r["rejected_sampled"]["ids"] for r in rows
    ]
    assert not found.report.unused_columns
    renamed = [{"good": one["chosen"], **one} for one in rows]
    other = preferences_from_rows(renamed, columns={"chosen": "good"})
    assert other.report.unused_columns == {"chosen": 4, "chosen_sampled": 4}


def test_a_table_of_text_keeps_the_ids_as_json(tmp_path):
    some = tokenizer("byte-level")
    rows, file = some_rows(some, "the plot", 4), tmp_path / "pairs.csv"
    rows.append({"prompt": "p", "chosen": "slow", "rejected": "it"})
    with file.open("w", newline="") as out:
        table = csv.DictWriter(out, rows[0])
        table.writeheader()
        for one in rows:
            plain = {k: json.dumps(v) if isinstance(v, dict) else v for k, v in one.items()}
            table.writerow(plain)
    tokens = tokenize_pairs(load_preferences(file), some)
    assert tokens.sampled == {AS_SAMPLED: 8, CUT: 4} and len(tokens) == 5


def test_the_fingerprint_of_a_data_set_sees_the_ids_and_only_where_there_are_some():
    some = tokenizer("byte-level")
    (one,) = some_rows(some, "the plot", 1)
    text = {name: one[name] for name in ("prompt", "chosen", "rejected")}
    other = {**one, "chosen_sampled": {**one["chosen_sampled"], "ended": True}}
    prints = [preferences_from_rows([r]).fingerprint() for r in (one, text, other)]
    assert len(set(prints)) == 3
    assert preferences_from_rows([{**text, "note": 1}]).fingerprint() == prints[1]


def test_a_label_that_is_turned_around_takes_its_ids_along():
    some = tokenizer("byte-level")
    rows = some_rows(some, "the plot", 4)
    flipped, _ = flip_labels(preferences_from_rows(rows), 1.0)
    tokens = tokenize_pairs(flipped, some)
    assert tokens.sampled == {AS_SAMPLED: 8, CUT: 4}
    for pair, one in zip(tokens, rows, strict=True):
        assert list(pair.chosen) == one["rejected_sampled"]["ids"]


def test_the_token_view_shows_the_sampled_ids_and_no_end_token_on_a_cut_answer():
    some = tokenizer("sentencepiece")
    split = spelled(some)
    rows = [row("the plot", sampled(some, split, False), sampled(some, split[:2], True))]
    shown = pair_tokens(preferences_from_rows(rows)[0], some)
    assert [token.id for token in shown.chosen.response] == split
    assert [token.part for token in shown.chosen.response] == ["response"] * 4
    assert [token.part for token in shown.rejected.response] == ["response"] * 2 + ["end token"]
