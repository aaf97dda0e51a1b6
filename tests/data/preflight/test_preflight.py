"""The check of data on rows that are wrong on purpose: all of them are found, and no other."""

import json
import math
import re
from collections import defaultdict
from pathlib import Path

import pytest
from planted_pairs import BACK, PLACES, kind_of, planted_row, planted_rows
from tiny_tokenizers import TEMPLATES, tokenizer_of

from dpo_lab.data.held_out import load_train_and_held_out, split_by_prompt
from dpo_lab.data.preferences import preferences_from_rows
from dpo_lab.data.preflight import check as checking
from dpo_lab.data.preflight.check import check_pairs
from dpo_lab.data.preflight.kinds import KINDS, UNUSABLE_FIXES, name_of
from dpo_lab.data.preflight.settings import CheckSettings
from dpo_lab.data.problems import BadRows

COUNT = 3000
SETTINGS = CheckSettings(max_length=1500)


@pytest.fixture(scope="module")
def tokenizer():
    template, end = TEMPLATES["ChatML"]
    return tokenizer_of("byte-level", template, eos_token=end)


def listed(path) -> dict[str, set[int]]:
    found = defaultdict(set)
    for line in path.read_text().splitlines():
        one = json.loads(line)
        found[one["finding"]].add(one["row"])
    return found


def names(found) -> set[str]:
    return {one.name for one in found.findings if one.severity != "note"}


@pytest.fixture(scope="module")
def planted(tmp_path_factory, tokenizer):
    """A file with planted rows, what the check says of it, and every row that it names."""
    folder = tmp_path_factory.mktemp("planted")
    path, rows_out = folder / "pairs.jsonl", folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in planted_rows(COUNT, 0.8)))
    return path, check_pairs(path, tokenizer, SETTINGS, rows_out=rows_out), listed(rows_out)


@pytest.mark.parametrize("kind", [kind for kind in PLACES if kind != "near_prompts"])
def test_what_was_planted_is_found_row_by_row(planted, kind):
    _, found, rows = planted
    true = {index + 1 for index in range(COUNT) if kind_of(index) == kind}
    if kind == "both_labels":
        true |= {row - BACK[kind] for row in true}
    assert rows[kind] == true
    finding = found.finding(kind)
    assert finding.count == len(true) and {one.row for one in finding.examples} <= true
    assert len(finding.examples) == 3 and finding.fix


def test_near_prompts_across_the_split_are_those_of_the_split_that_training_makes(planted):
    path, found, rows = planted
    train, held_out = load_train_and_held_out(path, on_bad_rows="skip")
    assert (found.trained, found.held_out) == (len(train), len(held_out))
    held = {pair.row for pair in held_out}
    true = set()
    for index in range(COUNT):
        if kind_of(index) == "near_prompts":
            true |= {index + 1, index + 1 - BACK["near_prompts"]} & held
    copies = {index + 1 for index in range(COUNT) if kind_of(index) == "near_prompts"}
    both = {row for row in copies if row in held and row - BACK["near_prompts"] in held}
    true -= both | {row - BACK["near_prompts"] for row in both}
    assert rows["near_prompts"] == true and true


def test_nothing_else_is_named(planted):
    _, found, rows = planted
    assert set(rows) == {*PLACES}
    assert names(found) == {*PLACES, "shortcut"}
    (rule,) = [one for one in found.findings if one.name == "shortcut"]
    assert "only at length (longer)" in rule.title


def test_each_finding_says_what_to_do_in_whole_words(planted):
    _, found, _ = planted
    for one in found.findings:
        assert not re.search(r"\{(length|column|smoothing|rule|fix)\}", one.title + one.fix)
        assert one.title[0].isupper() and not one.title.endswith(".") and one.fix


def test_the_page_of_docs_names_every_kind():
    text = (Path(__file__).parents[3] / "docs" / "check.md").read_text()
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`(\w+)`", " ".join(cells)))
    of_ids = {name_of(reason) for reason in UNUSABLE_FIXES}
    assert named == {*KINDS, *of_ids, "skipped", "note"}


def test_clean_rows_are_clean(tokenizer):
    rows = (planted_row(index) for index in range(1500) if kind_of(index) == "clean")
    found = check_pairs(rows, tokenizer, SETTINGS)
    assert not names(found) and not found.serious
    assert found.usable == found.rows == found.trained + found.held_out


def test_the_share_that_the_length_rule_gets_right(planted):
    """Counted again from the file; its interval is Wilson's, solved here as a quadratic."""
    path, found, _ = planted
    right = ties = pairs = 0
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if row["chosen"] != row["rejected"]:
            pairs += 1
            right += len(row["chosen"]) > len(row["rejected"])
            ties += len(row["chosen"]) == len(row["rejected"])
    rule = next(one for one in found.rules if one.name == "length")
    share = (right + ties / 2) / pairs
    assert rule.share == pytest.approx(share) and (rule.right, rule.pairs) == (right, pairs)
    for end in rule.interval:  # (share - p)^2 = z^2 p (1 - p) / n
        assert (share - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / pairs)


def test_lengths_are_those_of_the_tokenised_pairs(planted, tokenizer):
    from dpo_lab.data.tokenized_pairs import tokenize_pairs

    path, found, _ = planted
    pairs, _ = load_train_and_held_out(path, held_out=0.0, on_bad_rows="skip")
    tokens = tokenize_pairs(pairs, tokenizer, max_length=10**6, on_bad_rows="skip")
    lengths = sorted(map(len, tokens))
    pair = found.lengths["pair"]
    assert (pair.number, pair.longest) == (len(lengths), lengths[-1])
    assert pair.mean == pytest.approx(sum(lengths) / len(lengths))
    for share in (0.5, 0.9, 0.999):
        assert pair.quantile(share) == lengths[math.ceil(share * len(lengths)) - 1]
    edges, counts = pair.binned()
    assert sum(counts) == len(lengths) and len(edges) == len(counts) + 1
    assert counts[3] == sum(edges[3] <= length < edges[4] for length in lengths)
    assert pair.above(400) == sum(length > 400 for length in lengths)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("held_out", [0.0, 0.1, 0.5])
def test_the_split_is_the_one_that_training_makes(tokenizer, seed, held_out):
    """Also where one prompt is written in several ways: the first in the alphabet ranks."""
    rows = [
        {"prompt": f"{' ' * (n % 3)}what is {n % 17}", "chosen": f"yes {n}", "rejected": "no"}
        for n in range(60)
    ]
    found = check_pairs(rows, tokenizer, CheckSettings(seed=seed, held_out=held_out))
    train, other = split_by_prompt(preferences_from_rows(rows), held_out, seed)
    assert (found.trained, found.held_out, found.prompts) == (len(train), len(other), 17)


def test_a_split_of_its_own(tmp_path, tokenizer):
    """Equal prompts are counted as training counts them; near ones beside."""
    words = "one two three four five six seven eight nine ten eleven twelve thirteen".split()
    train = [" ".join([*words, f"end{n}", "of", "all", f"last{n}"]) for n in range(5)]
    train += ["where is Rio de Janeiro"]
    test = [train[0], "  " + train[1], "what else is there to ask of a river"]
    for name, prompts in (("train", train), ("test", test)):
        lines = [{"prompt": p, "chosen": "yes", "rejected": "no"} for p in prompts]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{name}.jsonl").write_text(text)
    found = check_pairs(tmp_path, tokenizer, SETTINGS)
    assert (found.trained, found.held_out) == (6, 3)
    equal = found.finding("equal_prompts")
    assert [(one.split, one.row) for one in equal.examples] == [("test", 1), ("test", 2)]
    _, held_out = load_train_and_held_out(tmp_path, on_bad_rows="skip")
    assert equal.count == 3 - len(held_out)


def test_first_words_are_a_finding_only_where_they_tell(tokenizer):
    def rows(chosen, rejected):
        for number in range(400):
            row = planted_row(number * 200)  # clean
            yield row | {"chosen": chosen(number), "rejected": rejected(number)}

    told = check_pairs(
        rows(lambda n: f"Sure thing, {n}.", lambda n: f"Well then, {n}."), tokenizer, SETTINGS
    )
    rule = next(one for one in told.rules if one.name == "first words")
    assert (rule.right, rule.wrong) == (400, 0) and rule.examples[0].text == "chosen: sure thing, …"
    # Every opening is there once: what is learnt on one half says nothing about the other.
    alone = check_pairs(rows(lambda n: f"a{n} b{n}.", lambda n: f"c{n} d{n}."), tokenizer, SETTINGS)
    rule = next(one for one in alone.rules if one.name == "first words")
    assert rule.right + rule.wrong < 12, "some of 1600 share one of 65,536 buckets"


ROW = {"prompt": "Where is it", "chosen": "Here it is.", "rejected": "I do not know."}
USER = [{"role": "user", "content": "Where is it"}]


def said(text):
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    ("row", "name", "words"),
    [
        ({"chosen": "Here.<|im_end|>"}, "end_twice", "chosen ends with 1 in its text"),
        ({"rejected": "No.<|im_end|>\n<|im_end|>"}, "end_twice", "rejected ends with 2"),
        ({"prompt": "<<SYS>> Be kind <</SYS>> hi"}, "foreign_markup", "<<SYS>> of Llama 2"),
        ({"chosen": "yes<｜end▁of▁sentence｜>"}, "foreign_markup", "of DeepSeek"),
        (
            {"prompt": USER, "chosen": said("<|im_start|>a"), "rejected": said("b")},
            "own_markup",
            "<|im_start|> inside a message",
        ),
        ({"rejected": "here  IT is."}, "same_but_space", "here IT is."),
        ({"chosen": "Здесь, конечно"}, "script_differs", "Здесь"),
        ({"chosen_score": 1, "rejected_score": 1.0}, "score_tied", "chosen 1, rejected 1"),
        ({"prompt": None}, "skipped", "null"),
        ({"chosen": "a <|im_end|> b"}, "end_inside", ""),
    ],
)
def test_what_is_wrong_with_one_row(tokenizer, row, name, words):
    rows = [planted_row(number) for number in range(1, 15)] + [ROW | row]
    found = check_pairs(rows, tokenizer, SETTINGS).finding(name)
    assert found.count == 1 and found.examples[0].row == 15
    assert words in found.examples[0].beside


def test_text_that_the_model_writes_itself_is_no_finding(tokenizer):
    rendered = "<|im_start|>user\nWhere<|im_end|>\n<|im_start|>assistant\n"
    rows = [ROW | {"prompt": rendered, "chosen": "Here.<|im_end|>", "rejected": "No.<|im_end|>"}]
    assert not names(check_pairs(rows, tokenizer, SETTINGS))


def test_messages_without_a_template_are_a_finding_not_an_error():
    plain = tokenizer_of("byte-level")
    rows = [{"prompt": USER, "chosen": said("a"), "rejected": said("b")}, ROW]
    found = check_pairs(rows, plain, SETTINGS).finding("unusable")
    assert found.count == 1 and "no chat template" in found.title and "--chat-template" in found.fix


def test_a_prompt_under_another_name_is_said(tokenizer):
    rows = [
        {"question": "Where", "chosen": "Q: x\nA: yes", "rejected": "Q: x\nA: no"} for _ in range(3)
    ]
    found = check_pairs(rows, tokenizer, SETTINGS).finding("overlooked_prompt")
    assert found.severity == "serious" and found.fix == "--columns prompt question"
    with pytest.raises(ValueError, match="--columns prompt question"):
        preferences_from_rows(rows)


def test_rows_that_lost_their_prompt_count_as_in_training(tokenizer):
    rows = [ROW, {"chosen": "Q: x\nA: yes", "rejected": "Q: x\nA: no"}]
    found = check_pairs(rows, tokenizer, SETTINGS)
    assert found.finding("lost_prompt").count == 1 and found.usable == 1
    with pytest.raises(BadRows, match="1 of 2 rows"):
        preferences_from_rows(rows, on_bad_rows="raise")


def test_pairs_that_were_read_already_are_checked_as_they_are(tokenizer):
    rows = [{"question": f"Where {n}", "good": f"Here {n}", "bad": "No"} for n in range(5)]
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    talks = [{"prompt": USER, "chosen": said(f"a{n}"), "rejected": said("b")} for n in range(5)]
    pairs = preferences_from_rows(rows, columns=columns)
    again = check_pairs(pairs, tokenizer, CheckSettings(columns=columns))
    assert again.usable == 5
    by_row = check_pairs(rows, tokenizer, CheckSettings(columns=columns))
    assert again.lengths["pair"].counts.tolist() == by_row.lengths["pair"].counts.tolist()
    assert check_pairs(preferences_from_rows(talks), tokenizer).usable == 5


def test_no_pair_at_all_is_an_error_that_says_why(tokenizer):
    with pytest.raises(ValueError, match=r"none of its 1 rows makes a pair \(row 1: missing"):
        check_pairs([{"prompt": "a", "good": "b"}], tokenizer)


@pytest.mark.slow
def test_two_processes_say_the_same(planted, tokenizer, monkeypatch):
    path, found, _ = planted
    monkeypatch.setattr(checking, "ALONE", 1)
    shared = check_pairs(path, tokenizer, SETTINGS, processes=2)
    assert json.dumps(shared.as_dict()) == json.dumps(found.as_dict())


def test_the_clean_rows_are_those_that_nothing_is_wrong_with(planted, tokenizer, tmp_path):
    path, found, rows = planted
    again = check_pairs(path, tokenizer, SETTINGS, clean_out=tmp_path)
    assert again.findings == found.findings
    kept = {
        name: [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "test")
    }
    assert again.cleaned == (len(kept["train"]), len(kept["test"]))
    wrong = set().union(*(rows[kind] for kind in PLACES if kind != "end_twice"))
    original = [json.loads(line) for line in path.read_text().splitlines()]
    train, held_out = load_train_and_held_out(path, on_bad_rows="skip")
    for name, pairs in (("train", train), ("test", held_out)):
        assert kept[name] == [original[p.row - 1] for p in pairs if p.row not in wrong]
    clean = check_pairs(tmp_path, tokenizer, SETTINGS)
    assert names(clean) == {"shortcut", "end_twice"} and clean.usable == clean.rows


def test_clean_rows_need_data_that_can_be_read_again(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="can be read only once"):
        check_pairs(iter([ROW]), tokenizer, clean_out=tmp_path / "a")
    check_pairs([ROW] * 2, tokenizer, clean_out=tmp_path / "b")
    assert (tmp_path / "b" / "train.jsonl").read_text() == json.dumps(ROW) + "\n"
    assert not (tmp_path / "b" / "test.jsonl").exists()
