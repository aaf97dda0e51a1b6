"""docs/from-trl.md: its code runs, its tables are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dpo_lab import Run
from dpo_lab.training.trl_trainer.fields import HARMLESS, REFUSED

PAGE = (Path(__file__).parents[3] / "docs" / "from-trl.md").read_text()


@pytest.mark.parametrize(("name", "reasons"), [("refused", REFUSED), ("harmless", HARMLESS)])
def test_the_tables_say_what_is_refused_and_what_has_no_effect(name, reasons):
    block = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", PAGE, re.S).group(1)
    said = {}
    for line in block.splitlines()[2:]:
        fields, why = line.strip("| ").split(" | ")
        said |= dict.fromkeys(re.findall(r"`(\w+)`", fields), why)
    assert said == dict(reasons)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_code_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(block, {})
    assert float(capsys.readouterr().out.split()[-1]) > 0.1
    run = Run(tmp_path / "outputs" / "reviews" / "run")
    assert run.finished and run.last_samples()
