"""What the tests read from a page: its fenced blocks, its links and its headings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, *DOCS]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line that it begins on."""

    page: Path
    language: str
    text: str
    line: int

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [Block(page, f[1], f[2], text.count("\n", 0, f.start(2)) + 1) for f in _FENCE.finditer(text)]


def extension_blocks(title: str) -> list[Block]:
    """The blocks of one extension example in docs/contributing.md."""
    page = ROOT / "docs/contributing.md"
    text = page.read_text(encoding="utf-8")
    start = text.index(f"\n### {title}\n") + 1
    section = re.compile(r"\n(###? |<!-- Extension examples end)").search(text, start)
    assert section is not None
    first, last = (text.count("\n", 0, i) for i in (start, section.start()))
    return [block for block in blocks(page) if first < block.line <= last + 1]


def is_extension(block: Block) -> bool:
    """Whether a block belongs to an extension example, which changes the package and runs elsewhere."""
    text = block.page.read_text(encoding="utf-8")
    marks = [text.find(f"<!-- Extension examples {word}") for word in ("begin", "end")]
    first, last = (text.count("\n", 0, max(0, mark)) for mark in marks)
    return marks[0] >= 0 and first < block.line <= last


def prose(page: Path) -> str:
    """The page without its blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Targets of all links and pictures, those to other sites included."""
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """What `#...` may name in a link to this page: its headings, as GitHub writes them."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in _HEADING.findall(prose(page))}
