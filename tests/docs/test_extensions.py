"""The extension examples of docs/contributing.md: each is applied to a copy of the package, and run.

A block whose first line is `# file: PATH (new)`, `(append)` or `(replace: OLD LINE)` changes that file. The section's
other Python block runs with the changed package, and prints what its comments say.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT, Block, extension_blocks
from tests.docs.runner import compare, printed_lines

EXAMPLES = ("A frontend", "A stack layer", "A shard format", "A format of conversions", "An input kind")
MOST_LINES, MOST_FILES = 40, 2


def apply(block: Block, root: Path) -> Path:
    """Change a file of the copy as the block says. Returns the file."""
    head, text = block.text.split("\n", 1)
    match = re.fullmatch(r"# file: (\S+) \((?:(new)|(append)|replace: (.*))\)", head)
    assert match, f"{block.place}: expected '# file: PATH (new|append|replace: LINE)', got {head!r}"
    path = root / match[1]
    if match[2]:
        assert not path.exists(), f"{block.place}: {match[1]} exists"
        path.write_text(text)
    elif match[3]:
        path.write_text(f"{path.read_text()}\n\n{text}")
    else:
        lines = path.read_text().splitlines()
        assert lines.count(match[4]) == 1, f"{block.place}: {match[1]} has {lines.count(match[4])} lines {match[4]!r}"
        lines[lines.index(match[4])] = text.rstrip("\n")
        path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("title", EXAMPLES)
def test_the_example_works(title: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "hlfeat", tmp_path / "hlfeat", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    blocks = extension_blocks(title)
    assert sum(block.text.count("\n") for block in blocks) < MOST_LINES
    changed = {apply(block, tmp_path) for block in blocks if block.text.startswith("# file: ")}
    assert 1 <= len(changed) <= MOST_FILES
    (trial,) = (block for block in blocks if not block.text.startswith("# file: "))
    result = subprocess.run(
        [sys.executable, "-c", trial.text],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, f"{trial.place}: {result.stderr}"
    assert printed_lines(trial.text), f"{trial.place}: prints nothing"
    compare(trial, printed_lines(trial.text), result.stdout.splitlines())
