"""The library does not know the command: nothing outside `hlfeat/cli` imports typer or names an option in a string."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import hlfeat

PACKAGE = Path(hlfeat.__file__).parent
LIBRARY = [p for p in sorted(PACKAGE.rglob("*.py")) if "cli" not in p.relative_to(PACKAGE).parts]
OPTION = re.compile(r"(?<![\w-])--[a-z]")
OF_OTHER_PROGRAMS = {"--short=12"}  # git's


def strings(tree: ast.AST) -> Iterator[ast.Constant]:
    """All string constants of a module, docstrings and the texts of f-strings among them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node


def strings_with_options(source: str) -> list[tuple[int, str]]:
    """Line and text of each string that names an option."""
    texts = [(node.lineno, str(node.value)) for node in strings(ast.parse(source))]
    return [(line, text) for line, text in texts if OPTION.search(text) and text not in OF_OTHER_PROGRAMS]


def imported_modules(source: str) -> set[str]:
    """Top-level names of everything that a module imports."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


def test_no_string_of_the_library_names_an_option():
    assert len(LIBRARY) > 50
    offenders = {str(path): strings_with_options(path.read_text()) for path in LIBRARY}
    assert {path: lines for path, lines in offenders.items() if lines} == {}


def test_no_module_of_the_library_imports_typer():
    assert [str(path) for path in LIBRARY if imported_modules(path.read_text()) & {"typer", "click"}] == []


def test_these_tests_see_options_and_imports():
    source = (
        "'''Like --docstring.'''\nimport typer.main\nraise E(f'{x}: out of memory (--batch helps)', 'a --- b', '-o')"
    )
    assert [line for line, _ in strings_with_options(source)] == [1, 3]
    assert imported_modules(source) == {"typer"}
