"""What a class's docstring says it has, it has."""

import ast
import re

import pytest
from test_structure import FILES, PACKAGE

SECTION = re.compile(r"^Attributes:\n((?:(?: .*)?\n)*)", re.M)


def classes():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            section = isinstance(node, ast.ClassDef) and SECTION.search(
                (ast.get_docstring(node) or "") + "\n"
            )
            if section:
                named = re.findall(r"^    (\w+):", section[1], re.M)
                yield pytest.param(node, named, id=f"{path.relative_to(PACKAGE)}:{node.name}")


def owned(node: ast.ClassDef) -> set[str]:
    """Fields, properties, and what some method gives to self."""
    names = {
        part.target.id
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }
    for part in node.body:
        if isinstance(part, ast.Assign):
            names |= {target.id for target in part.targets if isinstance(target, ast.Name)}
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef):
            names.add(part.name)
        elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
            names.add(part.attr)
    return names


FOUND = list(classes())


@pytest.mark.parametrize(("node", "named"), FOUND)
def test_every_attribute_that_is_told_is_there(node, named):
    assert named and not set(named) - owned(node)


@pytest.mark.parametrize(("node", "named"), FOUND)
def test_every_field_of_a_dataclass_is_told(node, named):
    if any("dataclass" in ast.unparse(one) for one in node.decorator_list):
        fields = [
            part.target.id
            for part in node.body
            if isinstance(part, ast.AnnAssign) and not part.target.id.startswith("_")
        ]
        arguments = re.findall(
            r"^    (\w+):", ast.get_docstring(node).partition("Args:\n")[2], re.M
        )
        assert not set(fields) - {*named, *arguments}


def test_the_walk_sees_the_classes():
    assert len(FOUND) > 20
