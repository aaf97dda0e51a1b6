"""What is imported is declared: the package alone, and with their extras tests and benchmarks."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
from test_structure import FILES, imports

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWNERS = packages_distributions() | {"PIL": ["pillow"], "kaleido": ["kaleido"]}
"""Also of what is installed for pictures alone."""
LOCAL = {"dpo_lab", *(path.stem for path in (ROOT / "benchmarks").glob("*.py"))}
LOCAL |= {path.stem for path in (ROOT / "assets" / "scripts").glob("*.py")}
LOCAL |= {path.stem for path in (ROOT / "tests").rglob("*.py")}


def declared(*extras: str) -> set[str]:
    """Names of distributions that an installation with these extras asks for."""
    asked = [*PROJECT["dependencies"]]
    for extra in extras:
        asked += PROJECT["optional-dependencies"][extra]
    return {normal(re.match(r"[\w.-]+", requirement).group()) for requirement in asked}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def undeclared(names: set[str], allowed: set[str]) -> set[str]:
    """Imported modules of which no distribution is among those allowed."""
    found = set()
    for module in {name.split(".")[0] for name in names} - LOCAL - set(sys.stdlib_module_names):
        if not {normal(name) for name in OWNERS.get(module, [module])} & allowed:
            found.add(module)
    return found


def test_the_package_declares_what_it_imports():
    names = set().union(*map(imports, FILES))
    assert {"numpy", "torch", "huggingface_hub.errors"} <= names, "the walk sees them"
    assert not undeclared(names, declared("cluster"))


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("tests", ("test", "bench", "smollm2", "pictures", "quantize")),
        ("benchmarks", ("test", "bench")),
        ("assets/scripts", ("test", "pictures")),
    ],
)
def test_what_stands_beside_it_needs_no_more_than_its_extras(folder, extras):
    names = set().union(*map(imports, (ROOT / folder).rglob("*.py")))
    assert not undeclared(names, declared(*extras))


def test_a_notebook_needs_the_package_alone():
    names = set()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                names |= set(re.findall(r"^(?:import|from) ([\w.]+)", cell.source, re.M))
    assert {"dpo_lab", "torch"} <= names
    assert not undeclared(names, declared("cluster"))
