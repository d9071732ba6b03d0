"""What would be lost if a shard were removed: clips that are not known to be computable again from here."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Literal

from hlfeat.errors import UsageError
from hlfeat.remote.objects import stat
from hlfeat.remote.retries import RemoteError, Retries
from hlfeat.remote.urls import is_url
from hlfeat.storage.feature_dir import FeatureDir
from hlfeat.storage.index_entry import IndexEntry
from hlfeat.storage.layout import ShardFiles
from hlfeat.storage.run_dir import RunDir
from hlfeat.text import count, escape_unprintable

MOST_ASKED = 1000  # clips of other shards, where a shard's own are not known
AudioState = Literal["there", "gone", "changed"]


@dataclass
class AtRisk:
    """The clips of a shard, as far as its index can be read.

    Attributes:
        clips: those whose index lines can be read.
        gone: paths of clips among them whose audio is not there.
        changed: paths of those whose audio has another size or time of change than the file that was read.
        unknown: no line can be read, and nothing else says that the audio is there.
    """

    clips: int = 0
    gone: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unknown: bool = False

    @classmethod
    def of(cls, folder: RunDir, shard: ShardFiles) -> AtRisk:
        entries = _salvage_index(shard.index)
        risk = cls(len(entries))
        if not entries and isinstance(folder, FeatureDir) and any(path.exists() for path in shard.data):
            risk.unknown = not audio_seems_there(folder, shard)
        _stamp_at_url.cache_clear()
        paths: dict[AudioState, list[str]] = {"there": [], "gone": risk.gone, "changed": risk.changed}
        for entry in entries:
            paths[audio_state(entry)].append(entry.path)
        return risk

    @property
    def reason(self) -> str:
        """Why the shard is to be kept; empty where nothing would be lost."""
        if self.gone:
            clips = count(len(self.gone), "clip")
            return (
                f"kept, as the audio of {clips} is not there ({_first(self.gone)}): run this in the folder that the "
                "run was started in, or give those clips up with the option force"
            )
        if self.changed:
            clips = count(len(self.changed), "clip")
            return (
                f"kept, as the audio of {clips} has changed since it was read "
                f"({_first(self.changed)}): bring it back, or give those clips up with the option force"
            )
        if self.unknown:
            return (
                "kept, as its index does not tell its clips, and their audio may be gone: if it is there, the option "
                "force takes the shard back"
            )
        return ""


def audio_state(entry: IndexEntry) -> AudioState:
    """Whether the file or the archive of a clip is there, of the size and time of change that the index has."""
    if is_url(entry.path):
        stamp = _stamp_at_url(entry.path)
    else:
        try:
            info = os.stat(entry.path)  # of the file that a link leads to
            stamp = info.st_size, info.st_mtime_ns
        except (OSError, ValueError):
            stamp = None
    if stamp is None:
        return "gone"
    recorded = entry.size, entry.modified  # earlier versions recorded neither
    return "there" if None in recorded or None in stamp or recorded == stamp else "changed"


@lru_cache(maxsize=MOST_ASKED)  # segments and members are neighbours
def _stamp_at_url(url: str) -> tuple[int | None, int | None] | None:
    """Size and modification time of an object; None where it cannot be read from here."""
    try:
        found = stat(url, Retries(2))
    except (RemoteError, UsageError):
        return None
    return None if found.is_folder else (found.size, found.modified)


def _salvage_index(path: Path) -> list[IndexEntry]:
    """The lines of an index that can be read."""
    entries = []
    for line in path.read_bytes().split(b"\n"):
        with suppress(ValueError, RecursionError):
            data = json.loads(line)
            if isinstance(data, dict):
                entries.append(IndexEntry.from_line(data))
    return entries


def audio_seems_there(folder: RunDir, shard: ShardFiles | None = None) -> bool:
    """Whether the audio of other clips is where it was: of those in all shards, or in all but one, whose own clips are
    not known."""
    indexes = [other.index for other in folder.shards if shard is None or other.index != shard.index]
    others = (entry for index in indexes for entry in _salvage_index(index))
    states = {audio_state(entry) for entry in islice(others, MOST_ASKED)}
    return states == {"there"}


def _first(paths: Sequence[str]) -> str:
    return escape_unprintable(paths[0]) + (", ..." if len(paths) > 1 else "")
