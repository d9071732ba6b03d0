"""What tests of conversions share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hlfeat.files import json_lines

SHARD = "output.shard_size=4"


def index_of(folder: Path) -> list[dict[str, Any]]:
    """All lines of the indexes, in order."""
    paths = sorted(folder.glob("shard-*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def add_meta(folder: Path, meta_of: Callable[[int, str], dict[str, Any]]) -> None:
    """Put columns of a manifest into the indexes, as the last key of a line; an empty mapping adds none."""
    i = 0
    for path in sorted(folder.glob("shard-*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            meta = meta_of(i, line["id"])
            if meta:
                line["meta"] = meta
            i += 1
        path.write_bytes(json_lines(lines))


def rename(folder: Path, ids: dict[str, str]) -> None:
    """Give clips other ids. For shards of .npy, which have no ids in them."""
    for path in sorted(folder.glob("shard-*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_bytes(json_lines([{**line, "id": ids.get(line["id"], line["id"])} for line in lines]))


def damage(folder: Path, shard: int = 1) -> Path:
    """Change a byte of the features of a shard."""
    path = folder / f"shard-{shard:05d}.npy"
    data = bytearray(path.read_bytes())
    data[-2] ^= 0x55
    path.write_bytes(data)
    return path
