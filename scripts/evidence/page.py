"""The tables of docs/evidence.md, made from a file of results: each stands between two comments.

python -m scripts.evidence.page results.jsonl docs/evidence.md
"""

from __future__ import annotations

import gzip
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.evidence import digit_tables, speed, stack_tables, tracker_tables
from scripts.evidence.records import Record, Records

PARTS: dict[str, Callable[[Sequence[Record]], str]] = {
    "notes": tracker_tables.tables,
    "stacks": stack_tables.tables,
    "digits": digit_tables.tables,
    "speed": speed.tables,
}


def read_results(path: Path) -> Records:
    """Results, which may be compressed (.gz)."""
    if path.suffix != ".gz":
        return Records(path)
    with tempfile.TemporaryDirectory(prefix="evidence-") as folder:
        plain = Path(folder) / "results.jsonl"
        plain.write_bytes(gzip.decompress(path.read_bytes()))
        return Records(plain)


def with_tables(page: str, records: Records) -> str:
    """The page with the tables of these results.

    Raises ValueError for a table that the page has no place for.
    """
    for name, tables in PARTS.items():
        chosen = [r for r in records.all if r["experiment"].partition(",")[0] == name]
        place = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        text = tables(chosen).strip() if chosen else ""
        page, n = place.subn(lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", page)  # type: ignore[misc]
        if n != 1:
            raise ValueError(f"expected one place for {name}, found {n}")
    return page


def main(results: str, page: str) -> None:
    path = Path(page)
    path.write_text(with_tables(path.read_text(encoding="utf-8"), read_results(Path(results))), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
