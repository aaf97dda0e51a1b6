"""The README's code does what it says."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # runs are kept below the folder that one is in
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert len(blocks) == 3
    names: dict = {}
    for block in blocks:
        exec(block, names)
    bench = names["bench"]
    assert bench.run.state == "done" and len(bench.shelf.runs) == 2
    assert bench.run.records[-1].beta == 1 and bench.run.records[50].beta == 0.1
    assert capsys.readouterr().out.splitlines()[0] == "0 None"
    bench.close()
