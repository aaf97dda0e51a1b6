"""`import dpo_lab`: every public name, and nothing loaded before it is used."""

import json
import subprocess
import sys

import pytest

import dpo_lab

HEAVY = {"torch", "transformers", "datasets", "plotly", "ipywidgets", "IPython", "numpy", "pandas"}


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, json, dpo_lab; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not HEAVY & loaded
    assert {name for name in loaded if name.startswith("dpo_lab")} == {"dpo_lab"}


@pytest.mark.parametrize("name", dpo_lab.__all__)
def test_every_public_name_is_there(name) -> None:
    value = getattr(dpo_lab, name)
    assert name in dir(dpo_lab)
    if name[0] != "_" and hasattr(value, "__name__"):
        assert value.__name__.rpartition(".")[2] == name and (value.__doc__ or "").strip()


def test_a_name_that_is_not_there_is_said() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        dpo_lab.Trainer  # noqa: B018
    assert {"Workbench", "TrainConfig", "prepare", "train", "logps"} <= set(dpo_lab.__all__)
