"""docs/python.md has each public class in a table and in an example, and its figures are those of the modules.

Figures of times are those of a file in scripts/results.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

import hlfeat
from tests.docs.markdown import ROOT, blocks

PAGE = ROOT / "docs/python.md"
PUBLIC = {name: getattr(hlfeat, name) for name in hlfeat.__all__}
ERRORS = {name for name, thing in PUBLIC.items() if isinstance(thing, type) and issubclass(thing, Exception)}
CLASSES = sorted(name for name, thing in PUBLIC.items() if isinstance(thing, type) and name not in ERRORS)
FUNCTIONS = sorted(set(PUBLIC) - ERRORS - set(CLASSES))
NUMBER = re.compile(r"(\d[\d.]*)( [kMG])?")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<= )\|(?= |$)", line[1:])[:-1]]


def tables() -> Iterator[list[dict[str, str]]]:
    """The page's tables: rows of cells by the header's words."""
    for text in re.findall(r"(?:^\|.*\|\n)+", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        head, _, *rows = map(cells, text.splitlines())
        yield [dict(zip(head, row, strict=True)) for row in rows]


def rows_of(first: str) -> list[dict[str, str]]:
    """The rows of the table whose first column has that name."""
    (rows,) = (table for table in tables() if first in table[0])
    return rows


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_in_a_table(name):
    section = PAGE.read_text(encoding="utf-8").partition("## Every class and function")[2]
    firsts = re.findall(r"^\| (.*?) \|", section, re.MULTILINE)
    assert any(re.search(rf"`{name}\b", first) for first in firsts)


def used_names() -> set[str]:
    """What the page's examples take from hlfeat."""
    trees = [ast.parse(block.text) for block in blocks(PAGE) if block.language == "python"]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "hlfeat"}


@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS])
def test_every_name_is_in_an_example_of_the_page(name):
    assert name in used_names()


def module_of(row: dict[str, str], first: str) -> nn.Module:
    """The module that the first cell makes."""
    return eval(row[first].strip("`"), {}, PUBLIC)  # type: ignore[no-any-return]


def value(text: str) -> float:
    match = NUMBER.fullmatch(text)
    assert match, text
    return float(match[1]) * {None: 1, " k": 1e3, " M": 1e6, " G": 1e9}[match[2]]


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def dimensions(row: dict[str, str], n: int) -> list[int]:
    """`[B, 2, 80, N]` as sizes, with a batch of two."""
    names = {"B": 2, "N": n}
    return [names[d] if d in names else int(d) for d in row["gives"][1:-1].split(", ")]


def test_figures_of_frontends():
    for row in rows_of("frontend"):
        module = module_of(row, "frontend")
        assert value(row["parameters"]) == parameters(module), row
        assert value(row["multiply-adds for 1 s of audio"]) == pytest.approx(module.multiply_adds(), rel=5e-3), row
        assert dimensions(row, 10) == list(module(torch.randn(2, 1600)).shape), row


def test_figures_of_compressions():
    for row in rows_of("compression"):
        module = module_of(row, "compression")
        assert value(row["parameters"]) == parameters(module), row
        assert dimensions(row, 9) == list(module(torch.rand(2, 80, 9)).shape), row


def test_figures_of_convolutions():
    plain = nn.Conv2d(16, 32, (7, 5))
    for row in rows_of("convolution"):
        module, rows = module_of(row, "convolution"), int(row["rows"])
        assert value(row["parameters"]) == parameters(module), row
        branches = list(getattr(module, "branches", [module]))
        harmonics = sum(float(branch.plan(rows).active.sum()) for branch in branches)  # times [16, 32, 5] each
        cost = harmonics * 16 * 32 * 5
        if len(branches) > 1:
            cost += rows * module.mix.weight.numel()
        share = cost / (rows * plain.weight.numel())
        assert value(row["multiply-adds / `nn.Conv2d`"]) == pytest.approx(share, abs=6e-3)
        module(torch.randn(1, 16, rows, 9))


Measured = Callable[[str, str, str], float]


@pytest.fixture(scope="module")
def measured() -> Measured:
    """(setting, candidate, key) -> what was measured with 16 clips of 16 s."""
    rows = json.loads((ROOT / "scripts/results/cpu-2-threads-frontend.json").read_text())["rows"]
    of = {(row["setting"], row["candidate"]): row for row in rows if row["input"] == "16 x 16 s"}
    return lambda setting, candidate, key: float(of[setting, candidate][key])


def test_times_are_those_of_the_results(measured):
    times = {row["frontend"]: row["time / `LogMel`, 16 clips of 16 s"] for row in rows_of("frontend")}
    names = {
        "`EfficientLeaf(80, 8, conv_win_factor=6, stride_factor=16)`": ("8G-opt-80", "ours, logtbn"),
        "`EfficientLeaf()`": ("eleaf-default-40", "ours, logtbn"),
        '`EfficientLeaf(compression="pcen")`': ("eleaf-default-40", "ours, pcen"),
        "`LogMel()`": ("8G-opt-80", "log-mel"),
    }
    assert set(names) == {frontend for frontend, time in times.items() if time}
    for frontend, (setting, candidate) in names.items():
        assert value(times[frontend]) == pytest.approx(measured(setting, candidate, "forward_to_logmel"), abs=5e-3)
    shares = [row["time / filterbank"] for row in rows_of("compression")]
    assert shares[0] == shares[3] == ""  # not measured
    for share, candidate in zip(shares[1:3], ("ours, logtbn", "ours, pcen"), strict=True):
        assert value(share) == pytest.approx(measured("8G-opt-80", candidate, "forward_compression"), abs=5e-3)
