"""Every command and every line of Python in the README and in docs/ runs, and prints what the page says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.docs.markdown import PAGES, README, ROOT, Block, blocks, prose
from tests.docs.runner import INSTEAD, LANGUAGES, NOT_RUN, console_steps, run_page

RECIPES = ROOT / "docs/recipes.md"  # tests/docs/test_recipes.py also looks at what they make


@pytest.mark.parametrize("page", [p for p in PAGES if p != RECIPES], ids=lambda page: page.name)
def test_blocks_run(page: Path, reader: Path) -> None:
    if page == README:
        shutil.rmtree("features")  # it begins where there are only clips
    run_page(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_fenced_and_has_a_language(page: Path) -> None:
    assert [b.place for b in blocks(page) if b.language not in LANGUAGES] == []
    text = prose(page)
    assert "```" not in text
    assert not re.search(r"^    ", text, re.MULTILINE), "a block without a fence would not be run"


def test_exceptions_are_needed() -> None:
    lines = [line for page in PAGES for b in blocks(page) if b.language in ("sh", "console") for line in commands(b)]
    for words in [*NOT_RUN, *INSTEAD]:
        assert any(words in line for line in lines), f"no page has {words!r}: take it out of the table"


def commands(block: Block) -> list[str]:
    if block.language == "console":
        return [command for command, _ in console_steps(block.text)]
    return block.text.splitlines()
