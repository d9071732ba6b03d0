"""What of a directory cannot be used, so that the rest can be shown."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hlfeat.errors import OutputError
from hlfeat.storage.run_dir import RunDir


@dataclass(frozen=True)
class Damage:
    """A file that cannot be used.

    Attributes:
        name: of the shard without suffix, or of another file.
        reason: what is wrong with it, with its path.
    """

    name: str
    reason: str


def read_failure_codes(folder: RunDir) -> tuple[Counter[str], list[Damage]]:
    """How many clips failed, by code; and what could not be read of the failures."""
    codes: Counter[str] = Counter()
    try:
        for failure in folder.failures():
            codes[failure.code] += 1
    except OutputError as e:
        return codes, [Damage("failures", folder.place.named(str(e)))]
    return codes, []
