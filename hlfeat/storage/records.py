"""Records of a feature directory: JSON objects, one a line, that are checked when they are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from hlfeat.errors import OutputError

Record = TypeVar("Record")


def read_records(
    path: Path, parse: Callable[[Mapping[str, Any]], Record], keys: tuple[str, ...]
) -> Iterator[tuple[int, Record]]:
    """The lines of a file, each with the offset of its first byte.

    Args:
        parse: makes a record of a line. Raises ValueError for one that it cannot understand.
        keys: that a line must have, for the message.

    Raises OutputError for a file that cannot be read, or a line that is damaged, with its number.
    """
    number = offset = 0
    decode = json.JSONDecoder().raw_decode  # json.loads takes half as long again for a short line
    try:
        with open(path, "rb") as f:
            for data in f:
                number += 1
                text = data.decode()
                line, end = decode(text)
                if not isinstance(line, dict) or text[end:].strip():
                    raise ValueError(f"expected {', '.join(keys)}")
                yield offset, parse(line)
                offset += len(data)
    except OSError as e:
        raise OutputError(f"{path}: cannot be read: {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:
        raise OutputError(f"{path}: damaged: line {number}: {e}") from e
