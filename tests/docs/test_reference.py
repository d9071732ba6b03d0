"""The pages are complete and agree with the code: length, links, options, failure codes, messages."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import hlfeat
from hlfeat.cli.errors import OPTIONS, REMEDIES
from tests.docs.markdown import DOCS, PAGES, README, ROOT, anchors, links, prose

TROUBLESHOOTING = ROOT / "docs/troubleshooting.md"
SOURCES = sorted(Path(hlfeat.__file__).parent.rglob("*.py"))
INTERNAL = {"cancelled"}  # codes that never reach failures.jsonl


def test_readme_is_short_and_begins_with_the_two_commands() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    first_screen = "\n".join(lines[:25])
    assert "scripts/demo.sh" in first_screen
    assert "scripts/test.sh" in first_screen


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    for link in links(page):
        if re.match(r"[a-z]+:", link):  # https: and others
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_readme_links_every_page() -> None:
    assert {f"docs/{page.name}" for page in DOCS} <= set(links(README))


COMMANDS = [
    "extract",
    "pitch",
    "stats",
    "inspect",
    "repair",
    "convert",
    "plot",
    "export",
    "import-weights",
    "config show",
    "config check",
]


@pytest.mark.parametrize("command", [*COMMANDS, "bench harmonic", "bench frontend", "bench pipeline", "bench profile"])
def test_every_option_is_explained(command: str, programs: Path) -> None:
    call = [programs / "hlfeat", *command.split(), "--help"]
    usage = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    options = set(re.findall(r"^ +(?:-\w, )?(--[\w-]+)", usage, re.MULTILINE))
    assert len(options) > 1
    assert "--help" in options
    text = "".join(map(prose, DOCS))
    assert [o for o in sorted(options) if not re.search(rf"`[^`]*{o}\b[^`]*`", text)] == []


def test_every_failure_code_is_explained() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    codes = set(re.findall(r'ClipError\(\s*"([\w-]+)"', sources))
    assert {"missing", "truncated", "unsupported"} <= codes, "the codes are no longer where this test looks for them"
    rows = re.findall(r"^\| `([\w-]+)` \|", TROUBLESHOOTING.read_text(encoding="utf-8"), re.MULTILINE)
    assert codes - INTERNAL | {"crashed"} <= set(rows)


def test_every_public_name_is_explained() -> None:
    text = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    assert [name for name in hlfeat.__all__ if not re.search(rf"`{name}[`(.]", text)] == []


def texts() -> Iterator[str]:
    """All strings of the source, with a NUL wherever a value is put in."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%(\.\d+)?[sdgef]", "\0", node.value)
            elif isinstance(node, ast.JoinedStr):
                yield "".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values)


def in_terms_of_the_library(message: str) -> str:
    """A message that the command prints, as the library has it: its own names and no remedy."""
    for remedy in REMEDIES.values():
        message = message.removesuffix(f"; {remedy}")
    names = {option: name for name, option in OPTIONS.items()}
    return re.sub(r"^--[\w-]+", lambda option: names.get(option[0], option[0]), message)


def test_messages_are_those_of_the_source() -> None:
    """Of every message in the tables, the longest piece between two `...` is in the source."""
    tables = TROUBLESHOOTING.read_text(encoding="utf-8").split("| message |")[1:]
    messages = [m for table in tables for m in re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)]
    assert len(messages) > 40
    source = "\0\0".join(texts())
    pieces = {m: max(in_terms_of_the_library(m).split("..."), key=len).strip() for m in messages}
    assert [message for message, piece in pieces.items() if piece not in source] == []
