"""Splits of folders and clones, shards, and files that are not what their names say."""

import gzip
import json
import tracemalloc

import pytest
from datasets import Dataset, DatasetDict

from dpo_lab.cli.commands import main
from dpo_lab.data.held_out import load_train_and_held_out
from dpo_lab.data.preferences import load_preferences
from dpo_lab.data.problems import BadRows
from dpo_lab.data.splits import find_held_out


def row(prompt: str) -> dict:
    return {"prompt": prompt, "chosen": f"{prompt} yes", "rejected": "no"}


def lines(*prompts: str) -> str:
    return "".join(json.dumps(row(prompt)) + "\n" for prompt in prompts)


def prompts(pairs) -> list[str]:
    return [pair.prompt for pair in pairs]


def write(folder, files: dict[str, str]):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


# As in HuggingFaceH4/ultrafeedback_binarized.
SIX = ["train_prefs", "train_sft", "test_prefs", "test_sft", "train_gen", "test_gen"]


@pytest.mark.parametrize(
    ("split", "names", "held_out"),
    [
        ("train_prefs", SIX, "test_prefs"),
        ("train_sft", SIX, "test_sft"),
        ("train", SIX, None),
        ("train", ["train", "validation", "test"], "test"),
        ("train_prefs", ["train_prefs", "validation_prefs", "test"], "validation_prefs"),
        ("train_prefs", ["train_prefs", "test"], "test"),
        ("train_prefs[:10]", ["train_prefs", "test_prefs"], "test_prefs"),
        ("helpful-train", ["helpful-train", "helpful-dev", "harmless-dev"], "helpful-dev"),
        ("test", ["train", "test", "validation"], "validation"),
        ("training", ["training", "test"], "test"),
        ("test", ["train", "test"], None),
    ],
)
def test_the_held_out_split_is_of_the_training_splits_kind(split, names, held_out):
    assert find_held_out(split, names) == held_out


@pytest.mark.parametrize("kind", ["files", "shards", "saved"])
def test_train_prefs_is_held_out_on_test_prefs(tmp_path, kind):
    if kind == "saved":
        parts = {name: Dataset.from_list([row(name)]) for name in SIX}
        DatasetDict(parts).save_to_disk(tmp_path / "data")
    else:
        end = "-00000-of-00001" if kind == "shards" else ""
        write(tmp_path / "data", {f"{name}{end}.jsonl": lines(name) for name in SIX})
    train, held_out = load_train_and_held_out(tmp_path / "data", split="train_prefs")
    assert (prompts(train), prompts(held_out)) == (["train_prefs"], ["test_prefs"])


def test_beside_train_prefs_no_test_of_another_kind_is_held_out(tmp_path):
    write(tmp_path, {"train_prefs.jsonl": lines(*"abcd"), "test_sft.jsonl": lines("e")})
    train, held_out = load_train_and_held_out(tmp_path, split="train_prefs", held_out=0.25)
    assert sorted(prompts(train) + prompts(held_out)) == ["a", "b", "c", "d"]


def test_all_shards_of_a_split_are_read_as_one(tmp_path):
    """Shards may be counted from 1, out of alphabetical order, and stand in a clone's `data`."""
    files = {f"train-{n:05}-of-00011.jsonl": lines(f"p{n}") for n in range(11)}
    write(tmp_path / "zero", files | {"test-00000-of-00001.jsonl": lines("held out")})
    train, held_out = load_train_and_held_out(tmp_path / "zero")
    assert prompts(train) == [f"p{n}" for n in range(11)]
    assert (prompts(held_out), train.report.rows) == (["held out"], 11)
    write(tmp_path / "one", {f"train-{n}-of-11.jsonl": lines(f"p{n}") for n in range(1, 12)})
    assert prompts(load_preferences(tmp_path / "one")) == [f"p{n}" for n in range(1, 12)]


def test_a_clone_of_the_hub_is_read(tmp_path):
    clone = write(tmp_path / "clone", {"README.md": "card", "dataset_infos.json": "{}"})
    (clone / "data").mkdir()
    for n, name in enumerate(("train-00000-of-00002-0123456789abcdef", "train-00001-of-00002")):
        Dataset.from_list([row(f"p{n}")]).to_parquet(clone / "data" / f"{name}.parquet")
    Dataset.from_list([row("q")]).to_parquet(clone / "data" / "test-00000-of-00001.parquet")
    train, held_out = load_train_and_held_out(clone)
    assert (prompts(train), prompts(held_out)) == (["p0", "p1"], ["q"])


def test_what_lies_in_data_is_not_held_out_of_a_file_outside(tmp_path):
    write(tmp_path, {"train.jsonl": lines(*"abcd"), "data/test.jsonl": lines("other")})
    train, held_out = load_train_and_held_out(tmp_path, held_out=0.25)
    assert sorted(prompts(train) + prompts(held_out)) == ["a", "b", "c", "d"]


def test_a_folder_of_several_data_sets_is_said_to_be_one(tmp_path):
    write(tmp_path, {"de/train.jsonl": lines("a"), "en/train.jsonl": lines("b"), "x/y.txt": ""})
    with pytest.raises(FileNotFoundError, match="but some in its folders de, en: give one of the"):
        load_preferences(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train-00000-of-00003", "train-00002-of-00003"], "no shard 00001-of-00003 (1 missing)"),
        (["train-00001-of-00003", "train-00002-of-00003"], "no shard 00000-of-00003 (1 missing)"),
        (["train-1-of-3", "train-3-of-3"], "no shard 00002-of-00003 (1 missing)"),
        (["train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"],
         "shards of 1 and of 2 files"),
        (["train-00000-of-00001", "train-00000-of-00001-0123456789abcdef"], "2 files for 1 shards"),
    ],
)  # fmt: skip
def test_a_missing_shard_is_an_error(tmp_path, files, message):
    write(tmp_path, {f"{name}.jsonl": lines(name) for name in files})
    with pytest.raises(FileNotFoundError) as caught:
        load_preferences(tmp_path)
    assert f"{message} of the split 'train'" in str(caught.value)


def test_a_missing_held_out_shard_is_an_error_too(tmp_path):
    write(tmp_path, {"train.jsonl": lines("a"), "test-00001-of-00002.jsonl": lines("b")})
    with pytest.raises(FileNotFoundError, match="no shard 00000-of-00002 .* of the split 'test'"):
        load_train_and_held_out(tmp_path)


def test_rows_of_shards_are_numbered_through(tmp_path):
    bad = json.dumps({**row("b"), "chosen": ""}) + "\n"
    files = {"train-0-of-2": lines("a") + bad, "train-1-of-2": lines("c") + '{"prompt"\n' + bad}
    write(tmp_path, {f"{name}.jsonl": text for name, text in files.items()})
    loaded = load_preferences(tmp_path, on_bad_rows="skip")
    assert [pair.row for pair in loaded] == [1, 3]
    assert [problem.row for problem in loaded.report.problems] == [2, 4, 5]
    assert "row 4: truncated" in str(loaded.report.problems[1])


def test_json_lines_in_a_json_file_are_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("\n" + lines("a") + "\n" + '{"prompt": "b\n' + lines("c"))
    loaded = load_preferences(path, on_bad_rows="skip")
    assert [(pair.row, pair.prompt) for pair in loaded] == [(2, "a"), (5, "c")]
    assert [problem.row for problem in loaded.report.problems] == [4]
    with pytest.raises(BadRows, match="row 4: truncated or malformed JSON"):
        load_preferences(path, on_bad_rows="raise")
    path.write_text('[\n{"prompt": "a"},\n')
    with pytest.raises(ValueError, match="must be a list of objects, or one object a line"):
        load_preferences(path)


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    write(tmp_path, {"data/train-00000-of-00001.parquet": pointer})
    with pytest.raises(ValueError, match="a pointer of Git LFS, not the file itself. Run 'git lfs"):
        load_preferences(tmp_path)


# A gz file of 200 MB of spaces takes 200 kB.
UNPACKED = 200_000_000


@pytest.fixture(scope="module")
def bomb(tmp_path_factory):
    path = tmp_path_factory.mktemp("bomb") / "a.jsonl.gz"
    with gzip.open(path, "wb") as file:
        file.write(lines("a").encode())
        for _ in range(UNPACKED // 10**6):
            file.write(b" " * 10**6)
    return path


def test_what_unpacks_past_the_limit_is_refused_and_never_held(bomb):
    tracemalloc.start()
    with pytest.raises(ValueError) as caught:
        load_preferences(bomb, max_gz_gb=0.1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "unpacks to more than max_gz_gb=0.1 GB" in str(caught.value)
    assert "raise the limit: --max-gz-gb, or max_gz_gb=." in str(caught.value)
    assert peak < 10_000_000, "a twentieth of what it unpacks to"


def test_the_limit_is_a_limit_and_can_be_raised(tmp_path):
    text = lines("a")
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(text.encode()))
    assert prompts(load_preferences(path, max_gz_gb=len(text) / 1e9)) == ["a"]
    with pytest.raises(ValueError, match="more than max_gz_gb="):
        load_preferences(path, max_gz_gb=(len(text) - 1) / 1e9)
    with pytest.raises(ValueError, match="max_gz_gb=0: must be > 0"):
        load_preferences(path, max_gz_gb=0)


@pytest.mark.parametrize("command", ["logps", "train"])
def test_commands_take_the_limit(bomb, command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--data", str(bomb), "--max-gz-gb", "0.01"])
    assert stop.value.code == 2
    assert "unpacks to more than max_gz_gb=0.01 GB" in capsys.readouterr().err


def test_logps_takes_names_of_columns(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"q": "the plot was", "good": "fine", "bad": "dull"}) + "\n")
    columns = ["prompt", "q", "chosen", "good", "rejected", "bad"]
    main(["logps", "--data", str(path), "--columns", *columns, "--json"])
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["chosen_tokens"] == 2
