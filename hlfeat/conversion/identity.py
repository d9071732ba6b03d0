"""What a conversion is of, and to what: recorded in its folder, so that no other one goes on there.

`_conversion.json` has it: in a feature directory until the conversion is finished, in other folders also afterwards.
Programs that read a folder of Parquet files skip names that begin with an underscore.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hlfeat.errors import OutputError, UsageError
from hlfeat.files import TEMPORARY, write_atomically

_NAME = "_conversion.json"
_DONE = "complete"


@dataclass(frozen=True)
class Identity:
    """What decides every byte of a conversion.

    Attributes:
        source: digest of the features and their index.
        format, dtype, shard_size, frames: as asked for, with defaults filled in.
    """

    source: str
    format: str
    dtype: str
    shard_size: int | str
    frames: bool

    def differing(self, other: object) -> list[str]:
        """Names of what differs in the identity that another conversion recorded."""
        fields = asdict(self)
        if not isinstance(other, Mapping):
            return list(fields)
        names = {"source": "the features"}
        return [names.get(key, key.replace("_", " ")) for key, value in fields.items() if other.get(key) != value]

    def check_same(self, folder: Path, other: object) -> None:
        """Raises UsageError where the folder is of another conversion."""
        keys = ", ".join(self.differing(other))
        if keys:
            raise UsageError(f"{folder}: holds another conversion ({keys} differ); choose another folder")


class Marker:
    """The file that says what a folder is a conversion of.

    Attributes:
        path: of the file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / _NAME

    def read(self) -> dict[str, Any] | None:
        """None where there is none. Raises OutputError for one that is damaged."""
        try:
            data = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as e:
            raise OutputError(f"{self.path}: damaged: {e}") from e
        if not isinstance(data, dict):
            raise OutputError(f"{self.path}: damaged: expected a JSON object")
        return data

    def write(self, identity: Identity, facts: Mapping[str, Any], complete: bool) -> None:
        """Write the file. `facts`: what else readers may want to know."""
        record = {"conversion": asdict(identity), _DONE: complete, **facts}
        write_atomically(self.path, (json.dumps(record, indent=2) + "\n").encode("ascii"))

    def remove(self) -> None:
        """Remove the file, and what is left of writing it."""
        self.clean()
        self.path.unlink(missing_ok=True)

    def clean(self) -> None:
        """Remove what a killed process left of writing the file."""
        self.path.with_name(_NAME + TEMPORARY).unlink(missing_ok=True)


def is_complete(record: Mapping[str, Any]) -> bool:
    """Whether what a marker's file says is of a finished conversion."""
    return record.get(_DONE) is True
