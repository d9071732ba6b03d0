"""Options have the same names in every version of Typer that is allowed.

Typer 0.27 makes the name of an option of its metavar, if this is the parameter's name in capitals, unless it is given.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import hlfeat.cli

FOLDER = Path(hlfeat.cli.__file__).parent


def options(node: ast.AST) -> Iterator[ast.Call]:
    """The calls of typer.Option in an annotation."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "typer.Option":
            yield call


def unnamed(trees: list[ast.Module]) -> list[str]:
    """Parameters whose option has their name as its metavar, and no name of its own."""
    aliases = {
        target.id: statement.value
        for tree in trees
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    found = []
    for tree in trees:
        for argument in (a for a in ast.walk(tree) if isinstance(a, ast.arg) and a.annotation is not None):
            annotation = argument.annotation
            assert annotation is not None
            of_alias = aliases.get(annotation.id) if isinstance(annotation, ast.Name) else None
            for option in options(of_alias or annotation):
                metavars = [ast.literal_eval(k.value) for k in option.keywords if k.arg == "metavar"]
                if not option.args and argument.arg.upper() in metavars:
                    found.append(argument.arg)
    return found


def test_no_option_is_named_by_its_metavar():
    assert not unnamed([ast.parse(file.read_text()) for file in FOLDER.glob("*.py")])


def test_an_option_without_a_name_is_found():
    source = """
Shared = Annotated[float, typer.Option(min=0, metavar="SECONDS")]
Named = Annotated[float, typer.Option("--rate", metavar="RATE")]
def command(seconds: Shared, rate: Named, axis: Annotated[str, typer.Option(metavar="AXIS")], out: Path = None): ...
"""
    assert unnamed([ast.parse(source)]) == ["seconds", "axis"]
