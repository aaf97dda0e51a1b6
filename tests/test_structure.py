"""The house: one-way doors between its rooms, and the README's picture of it."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dpo_lab"

# Each room may import itself and what stands before it; objective and data do not know each other.
MAY_IMPORT = {
    "objective": {"objective"},
    "data": {"data"},
    "models": {"objective", "data", "models"},
    "training": {"objective", "data", "models", "training"},
    "ui": {"objective", "data", "models", "training", "ui"},
}
OUTSIDE = {
    "objective": {"torch"},
    "data": {
        *("torch", "datasets", "tokenizers", "transformers", "huggingface_hub", "pyarrow"),
        "jinja2",
    },
}
SCREEN = {"plotly", "ipywidgets", "traitlets", "IPython", "anywidget"}
STANDARD = set(sys.stdlib_module_names)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_doors_open_one_way(path):
    room = path.relative_to(PACKAGE).parts[0]
    names = imports(path)
    outside = {name.split(".")[0] for name in names} - STANDARD - {"dpo_lab"}
    if room in MAY_IMPORT:
        rooms = {name.split(".")[1] for name in names if name.startswith("dpo_lab.")}
        assert rooms <= MAY_IMPORT[room]
        assert outside <= OUTSIDE.get(room, outside)
    if room != "ui":
        assert not outside & SCREEN


def test_the_walk_sees_the_doors():
    assert "dpo_lab.objective.loss" in imports(PACKAGE / "training" / "learner.py")
    assert len(FILES) > 25


def tree_of_readme() -> set[str]:
    """Paths named in the README's tree: two spaces an indent, a name, spaces, what it is for."""
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- tree -->\n```text\n(.*?)```", readme, re.S).group(1)
    stack, found = [], set()
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        stack = [*stack[:depth], name.rstrip("/")]
        found.add("/".join(stack))
    return found


def test_the_readme_shows_the_tree_that_is_there():
    named = tree_of_readme()
    missing = {name for name in named if not (ROOT / name).exists()}
    assert not missing, "named in the README, not there"
    modules = {str(p.relative_to(ROOT)) for p in FILES if p.name not in ("__init__.py",)}
    scripts = {
        str(p.relative_to(ROOT))
        for folder in ("assets/scripts", "benchmarks")
        for p in (ROOT / folder).glob("*.py")
    }
    notebooks = {str(p.relative_to(ROOT)) for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert not (modules | scripts | notebooks) - named, "there, not named in the README"


def test_nothing_happens_at_import():
    """A module's body defines and assigns; it calls nothing for its effect."""
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            assert not called, f"{path}: {ast.unparse(node)[:60]}"
