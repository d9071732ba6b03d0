"""Names of the files in a feature directory: one module knows them, and reads back what it gives."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import hlfeat
from hlfeat.partition import WHOLE, Part
from hlfeat.storage.formats import FORMATS
from hlfeat.storage.layout import SHARD_SUFFIXES, FileName, Layout

PACKAGE = Path(hlfeat.__file__).parent
NAMES = re.compile(r"shard-|stats-|failures[.-]|report\.json|report-|hlfeat\.(yaml|lock|busy)|hlfeat-p")
NOT_A_FILE = {"interop/export.py"}  # where hlfeat.yaml is the configuration inside an exported model


def text_in_code(path: Path) -> list[str]:
    """All strings of a module, but for docstrings and messages, which have a space in them."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    strings = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in docstrings]
    return [n.value for n in strings if isinstance(n.value, str) and " " not in n.value and n.value[:2] != "--"]


def test_no_other_module_knows_a_file_name():
    known = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name not in {"storage/layout.py", *NOT_A_FILE}:
            known += [f"{name}: {text}" for text in text_in_code(path) if NAMES.search(text)]
    assert known == []
    assert any(map(NAMES.search, text_in_code(PACKAGE / "storage/layout.py")))


@pytest.mark.parametrize("part", [WHOLE, Part(4, 2), Part(16, 2), Part(100, 100)])
def test_names_are_read_back(part):
    of_part = Layout(Path("out"), part)
    for number in (0, 7, 123_456):
        paths = {"index": of_part.index(number), "statistics": of_part.statistics(number)}
        for kind, path in [*paths.items(), *(("shard", of_part.shard(number, suffix)) for suffix in SHARD_SUFFIXES)]:
            assert Layout.parse(path.name) == FileName(kind, part, number, temporary=False)
            assert Layout.parse(f"{path.name}.tmp") == FileName(kind, part, number, temporary=True)
    for kind in ("failures", "report", "lock"):
        assert Layout.parse(getattr(of_part, kind).name) == FileName(kind, part, None, temporary=False)
    busy = of_part.lock.with_suffix(".busy").name  # of earlier versions: removed as what is half-written is
    assert Layout.parse(busy) == FileName("busy", part, None, temporary=True)
    assert Layout.parse(of_part.draft(of_part.description)) == FileName("description", part, None, temporary=False)
    assert Layout.parse(of_part.description.name) == FileName("description", WHOLE, None, temporary=False)


@pytest.mark.parametrize(
    "name",
    [
        "shard-0000.npy", "shard-00000.txt", "shard-00000", "shard.npy", "xshard-00000.npy", "shard-00000.npy.tmp.tmp",
        "stats.json", "stats-00000.jsonl", "failures-00000.jsonl", "failures.json", "report.jsonl", "hlfeat.json",
        "hlfeat.lock.tmp", "hlfeat.busy.tmp", "shard-p1of-00000.npy", "shard-p1of2.npy", ".tmp", "",
    ],
)  # fmt: skip
def test_other_names_are_nobodys(name):
    assert Layout.parse(name) is None


def test_every_format_that_can_be_configured_is_one():
    assert tuple(f".{name}" for name in FORMATS) == SHARD_SUFFIXES
