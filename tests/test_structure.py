"""The house: one-way doors between its rooms, and the picture of it in CONTRIBUTING.md."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dpo_lab"

ROOMS = (
    "objective", "data", "kernels", "models", "training", "analysis", "annotation", "ui", "cli",
)  # fmt: skip
"""Each may import itself and what stands before it."""
STRANGERS = {"data": {"objective"}, "annotation": {"analysis"}}
"""Though it stands before: objective and data do not know each other, nor these two."""
MAY_IMPORT = {
    room: set(ROOMS[: place + 1]) - STRANGERS.get(room, set()) for place, room in enumerate(ROOMS)
}
OUTSIDE = {
    "objective": {"torch"},
    "data": {
        *("torch", "datasets", "tokenizers", "transformers", "huggingface_hub", "pyarrow"),
        *("jinja2", "numpy"),
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
    if room not in ("ui", "cli"):
        assert not outside & SCREEN


def test_the_walk_sees_the_doors():
    assert "dpo_lab.objective.pair_logps" in imports(PACKAGE / "training" / "pair_gradient.py")
    assert len(FILES) > 25


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_files(path: Path) -> set[str]:
    """Modules of the package that a file imports; `from folder import module` names the module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(MODULES)


MODULES = {module_of(path): path for path in FILES}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The first circle that a walk from each module comes upon."""
    done, found = set(), []

    def walk(module: str, trail: list[str]) -> None:
        if module in trail:
            found.append([*trail[trail.index(module) :], module])
        elif module not in done:
            for other in sorted(graph[module]):
                walk(other, [*trail, module])
            done.add(module)

    for module in sorted(graph):
        walk(module, [])
    return found


def test_no_files_import_each_other_in_a_circle():
    """Imports for type checkers and those inside functions count."""
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c", "a"]]
    assert not circles({module: imported_files(path) for module, path in MODULES.items()})


def tree_of_contributing() -> set[str]:
    """Paths named in its tree: two spaces an indent, a name, spaces, what it is for."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    block = re.search(r"<!-- tree -->\n```text\n(.*?)```", text, re.S).group(1)
    stack, found = [], set()
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        stack = [*stack[:depth], name.rstrip("/")]
        found.add("/".join(stack))
    return found


def test_contributing_shows_the_tree_that_is_there():
    named = tree_of_contributing()
    missing = {name for name in named if not (ROOT / name).exists()}
    assert not missing, "named in the tree, not there"
    modules = {str(p.relative_to(ROOT)) for p in FILES if p.name not in ("__init__.py",)}
    scripts = {
        str(p.relative_to(ROOT))
        for folder in ("assets/scripts", "benchmarks")
        for p in (ROOT / folder).glob("*.py")
    }
    notebooks = {str(p.relative_to(ROOT)) for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert not (modules | scripts | notebooks) - named, "there, not named in the tree"


def test_nothing_happens_at_import():
    """A module's body defines and assigns; it calls nothing for its effect."""
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            assert not called, f"{path}: {ast.unparse(node)[:60]}"
