"""Lines of the index and of failures.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hlfeat.errors import OutputError

INDEX_KEYS = {"id": str, "path": str, "shard": str, "row": int, "frames": int, "duration": float}
LONGEST = 1e12  # seconds: longer than anything recorded, and sums of them are still numbers
FAILURE_KEYS = {"id": str, "path": str, "code": str, "message": str, "shard": str}


def read_records(path: Path, keys: Mapping[str, type]) -> Iterator[Record]:
    """The lines of an index or of failures.jsonl, each with these keys of these types."""
    for _, record in read_lines(path, keys):
        yield record


def read_lines(path: Path, keys: Mapping[str, type]) -> Iterator[tuple[int, Record]]:
    """The same, each with the place of its first byte in the file."""
    number = place = 0
    kinds = tuple(keys.items())
    decode = json.JSONDecoder().raw_decode  # json.loads takes half as long again for a short line
    try:
        with open(path, encoding="ascii", newline="\n") as f:
            for line in f:
                number += 1
                record, end = decode(line)
                if not isinstance(record, dict) or line[end:].strip():
                    raise ValueError(f"expected {', '.join(keys)}")
                for key, kind in kinds:
                    if not isinstance(record.get(key), kind):
                        raise ValueError(f"expected {', '.join(keys)}")
                    if kind is float and not 0 <= record[key] <= LONGEST:
                        raise ValueError(f"expected a {key} in seconds, got {record[key]}")
                yield place, record
                place += len(line)
    except OSError as e:
        raise OutputError(f"{path}: cannot be read: {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:
        raise OutputError(f"{path}: damaged: line {number}: {e}") from e


Record = dict[str, Any]
