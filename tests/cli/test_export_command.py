"""`dpo-lab export`: what it prints, writes and refuses."""

import json

import pytest
from command_line import run_cli
from exported_runs import tiny_run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_thread):
    return tiny_run(tmp_path_factory.mktemp("cli"), lora_rank=2)


def test_it_says_where_the_model_is_and_how_it_compares(run, capsys):
    words = "export", "--run", run.path, "--merge", "--dtype", "bfloat16", "--device", "cpu"
    code, out, err = run_cli(capsys, *words)
    folder = run.path / "export" / "merged-bfloat16"
    assert code == 0 and "error" not in err
    assert f"Exported  {folder}" in out and "merged, bfloat16" in out
    assert (folder / "README.md").exists() and (folder / "curves.svg").exists()
    code, out, err = run_cli(capsys, *words)
    assert code == 2 and "holds a model already" in err and "--overwrite" in err
    code, out, err = run_cli(capsys, *words, "--overwrite", "--json")
    found = json.loads(out)
    assert code == 0 and found["loaded"] == "merged, bfloat16" and found["kl_per_token"] > 0


def test_ones_own_prompts_are_a_file_of_lines(run, capsys, tmp_path):
    asked = tmp_path / "asked.txt"
    words = "export", "--run", run.path, "--out", tmp_path / "out", "--prompts", asked
    code, _, err = run_cli(capsys, *words)
    assert code == 2 and "cannot be read as text" in err
    asked.write_text("\n \n")
    code, _, err = run_cli(capsys, *words)
    assert code == 2 and "holds no prompt" in err
    asked.write_text("where is it\n\nwho is there\n")
    code, out, _ = run_cli(capsys, *words, "--device", "cpu")
    kept = json.loads((tmp_path / "out" / "export_check.json").read_text())
    assert code == 0 and kept["probes"] == "2 your own prompts"
    assert "The adapter needs its base" in out


def test_mistakes_are_one_line(run, capsys, tmp_path):
    code, _, err = run_cli(capsys, "export", "--run", tmp_path)
    assert code == 2 and "no run there" in err and len(err.splitlines()) == 1
    code, _, err = run_cli(capsys, "export", "--run", run.path, "--dtype", "int4")
    assert code == 2 and "int4" in err and "bfloat16" in err
