"""Several real processes against one: the same records, whoever computed which pair."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from process_cases import cases

HERE = Path(__file__).parent
ASKED = {"loss", "grad_norm", "rewards/margins", "eval/loss", "eval/rewards/margins"}
ASKED |= {"kl/per_token", "eval/rewards/accuracies", "score/policy"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """The records of every case by the number of processes, each number in a launch of its own."""
    found: dict[int, dict[str, list[dict]]] = {}

    def of(count: int) -> dict[str, list[dict]]:
        if count not in found:
            folder = tmp_path_factory.mktemp(f"processes{count}")
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
            script = [str(HERE / "process_cases.py"), str(folder)]
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
            found[count] = {p.stem: json.loads(p.read_text()) for p in folder.glob("*.json")}
        return found[count]

    return of


@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("count", [2, 3])
def test_processes_train_as_one(records, count, name):
    """Float32 to 1e-5 over 20 steps, float64 to 1e-8 over 200.

    A log-ratio is the difference of two sums of about ten nats, whose rounding in float32 is 1e-6:
    so much each mean over pairs may differ besides; rewards are a tenth of it.
    """
    alone, together = records(1)[name], records(count)[name]
    double = name.endswith(("float64", "batches"))
    assert [line.keys() for line in together] == [line.keys() for line in alone]
    assert alone[-1]["logps/chosen"] != alone[1]["logps/chosen"], "nothing was trained"
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
    assert records(2).keys() == records(1).keys() == cases().keys()
    assert {len(lines) for name, lines in records(1).items() if "float64" in name} == {201}
