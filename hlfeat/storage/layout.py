"""Names of the files in a feature directory."""

from __future__ import annotations

import re
from pathlib import Path

from hlfeat.partition import Part

_SHARD = re.compile(r"shard-(?:p(\d+)of(\d+)-)?(\d{5,})")


def shard_place(name: str) -> tuple[Part, int] | None:
    """Part and number of shard-00000 or shard-p1of4-00000, without extension; None for what is no shard's name."""
    found = _SHARD.fullmatch(name)
    return found and (Part(int(found[2] or 1), int(found[1] or 1)), int(found[3]))


def statistics_name(shard: str) -> str:
    """The file of statistics of shard-00000 or shard-p1of4-00000."""
    return f"stats{shard.removeprefix('shard')}.json"


PART = r"(-p\d+of\d+)?"
OURS = re.compile(
    rf"(shard{PART}-\d{{5,}}\.(npy|pt|jsonl)|stats{PART}-\d{{5,}}\.json|hlfeat{PART}\.yaml|failures{PART}\.jsonl"
    rf"|report{PART}\.json)(\.tmp)?|hlfeat{PART}\.(lock|busy)"
)


def shard_indexes(folder: Path) -> dict[tuple[Part, int], Path]:
    """The index files of all committed shards by part and number, in this order."""
    found = {place: p for p in folder.iterdir() if p.suffix == ".jsonl" and (place := shard_place(p.stem))}
    return dict(sorted(found.items()))
