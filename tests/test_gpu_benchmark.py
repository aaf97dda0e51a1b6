"""`benchmarks/gpu.py` in its small form, as on a bare machine: without widgets, TRL or datasets."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

GPU = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
BARE = """
import importlib.machinery as machinery, runpy, sys
absent = {"trl", "datasets", "tyro", "ipywidgets", "plotly", "anywidget", "rich", "IPython"}
absent |= {"docstring_parser", "traitlets", "jupyterlab", "ray"}
find = machinery.PathFinder.find_spec.__func__

def find_spec(cls, name, path=None, target=None):
    return None if name.split(".")[0] in absent else find(cls, name, path, target)

machinery.PathFinder.find_spec = classmethod(find_spec)
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""

pytestmark = pytest.mark.slow


def test_every_part_runs_and_says_what_is_missing(tmp_path):
    result = tmp_path / "gpu.json"
    words = [sys.executable, "-c", BARE, str(GPU), "--json", str(result)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    parts = json.loads(result.read_text())["parts"]
    assert list(parts) == [
        "right", "attention", "resume", "lean", "kl", "live", "compiled", "speed",
    ]  # fmt: skip
    assert all(rows for rows in parts.values())
    missing = {row["not_measured"] for row in sum(parts.values(), []) if "not_measured" in row}
    assert missing <= {f"{name} is not installed" for name in ("datasets", "trl", "ipywidgets")}
    single, half = parts["right"]
    assert single["packs"] and single["nats_per_token"] < 1e-5 and single["gradient"] < 1e-4
    assert half["precision"] == "bfloat16" and half["nats_per_token"] < 1e-2
    assert parts["resume"] == [{"model": "tiny", "steps": 8, "loss": 0.0, "grad_norm": 0.0}]
    assert {row["method"] for row in parts["speed"][1:]} >= {"lab", "lab, LoRA"}
    table = subprocess.run(
        [sys.executable, str(GPU), "--table", str(result)], capture_output=True, text=True
    ).stdout
    assert table.count("| tiny | 48 | 4 | lab") == 2
