"""Several real processes against one: the same records, whoever computed which pair."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from process_cases import cases, tied_llama
from safetensors import safe_open
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
ASKED = {"loss", "grad_norm", "rewards/margins", "eval/loss", "eval/rewards/margins"}
ASKED |= {"kl/per_token", "eval/rewards/accuracies", "score/policy"}

pytestmark = pytest.mark.slow


def launched(folder: Path, count: int, *words: str) -> dict[str, list[dict]]:
    """Records of cases trained by a number of processes, started by torchrun if there are several.

    Args:
        folder: Where the records are written to, and reference values are cached.
        count: Number of processes.
        words: For `process_cases.py`.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    script = [str(HERE / "process_cases.py"), str(folder), *words]
    paths = [HERE, HERE.parent / "models", HERE.parents[1]]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "OMP_NUM_THREADS": "1",
        "DPO_LAB_CACHE": str(folder / "cache"),
    }
    done = subprocess.run(
        [sys.executable, *(launcher if count > 1 else []), *script],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """The records of every case, by strategy and number of processes, each in its own launch."""
    found: dict[tuple, dict[str, list[dict]]] = {}

    def of(count: int, strategy: str = "ddp") -> dict[str, list[dict]]:
        if (count, strategy) not in found:
            folder = tmp_path_factory.mktemp(f"{strategy}{count}")
            found[count, strategy] = launched(folder, count, "--strategy", strategy)
        return found[count, strategy]

    return of


@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("count, strategy", [(2, "ddp"), (3, "ddp"), (2, "fsdp")])
def test_processes_train_as_one(records, count, strategy, name):
    """Float32 to 1e-5 over 20 steps, float64 to 1e-8 over 200.

    A log-ratio is the difference of two sums of about ten nats, whose rounding in float32 is 1e-6:
    so much each mean over pairs may differ besides; rewards are a tenth of it.
    """
    alone, together = records(1)[name], records(count, strategy)[name]
    double = name.endswith(("float64", "batches"))
    assert [line.keys() for line in together] == [line.keys() for line in alone]
    moved = "eval/logps/chosen"
    assert alone[-1][moved] != alone[0][moved], "nothing was trained"
    for before, after in zip(alone, together, strict=True):
        for key in before:
            relative, absolute = (1e-8, 1e-10) if double else (1e-5, 1e-7)
            if not double and key not in ASKED:
                absolute = 2e-6
            assert after[key] == pytest.approx(before[key], rel=relative, abs=absolute), (
                key,
                before["step"],
            )


def test_every_case_is_run(records):
    assert records(2).keys() == records(1).keys() == records(2, "fsdp").keys() == cases().keys()
    for name, lines in records(1).items():
        assert len(lines) == cases()[name][2]["steps"] + 1


BROKEN_OFF = ["tied sigmoid", "micro lora"]


@pytest.mark.parametrize("begun_by", [(2, "fsdp"), (1, "ddp")])
def test_a_run_goes_on_with_any_number_of_processes_and_either_strategy(
    records, tmp_path, begun_by
):
    count, strategy = begun_by
    words = ["--strategy", strategy, "--runs", str(tmp_path / "begun"), "--until", "9"]
    tmp_path.joinpath("first").mkdir()
    first = launched(tmp_path / "first", count, *words, *BROKEN_OFF)
    assert {len(lines) for lines in first.values()} == {10}
    whole = Path(tmp_path / "begun" / "tied sigmoid" / "checkpoint")
    with safe_open(whole / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys(), "tied: the embedding's"  # noqa: SIM118
    again = AutoModelForCausalLM.from_pretrained(whole)
    assert [w.shape for w in again.parameters()] == [
        w.shape for w in tied_llama(torch.float32).model.parameters()
    ]
    by = [(2, "fsdp"), (3, "fsdp"), (2, "ddp"), (1, "ddp")]
    for count, strategy in by if begun_by[1] == "fsdp" else by[:1]:
        folder = tmp_path / f"{strategy}{count}"
        shutil.copytree(tmp_path / "begun", folder / "runs")
        words = ["--strategy", strategy, "--runs", str(folder / "runs"), *BROKEN_OFF]
        for name, after in launched(folder, count, *words).items():
            assert [line["step"] for line in after] == list(range(10, 21))
            before = records(*begun_by)[name][10:]
            if (count, strategy) == begun_by:
                assert after == before, "bit for bit"
            for one, other in zip(before, after, strict=True):
                assert other == pytest.approx(one, rel=1e-5, abs=2e-6)
