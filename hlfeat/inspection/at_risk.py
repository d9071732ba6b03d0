"""What would be lost if a shard were removed: clips that are not known to be computable again from here."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hlfeat.errors import OutputError
from hlfeat.storage.feature_dir import FeatureDir
from hlfeat.storage.layout import ShardFiles
from hlfeat.storage.records import IndexEntry
from hlfeat.storage.run_dir import RunDir
from hlfeat.text import count, escape_unprintable

AudioState = Literal["there", "gone", "changed"]


@dataclass
class AtRisk:
    """The clips of a shard, as far as its index can be read.

    Attributes:
        clips: those whose index lines can be read.
        gone: paths of clips among them whose audio is not there.
        changed: paths of those whose audio has another size or time of change than the file that was read.
        unknown: whether the shard may have clips that no line tells.
    """

    clips: int = 0
    gone: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unknown: bool = False

    @classmethod
    def of(cls, folder: RunDir, shard: ShardFiles) -> AtRisk:
        entries, unreadable = _salvage_index(shard.index)
        risk = cls(len(entries))
        if isinstance(folder, FeatureDir) and any(path.exists() for path in shard.data):
            risk.unknown = unreadable > 0 or not entries or _has_more(folder, shard, entries)
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
                "kept, as its index does not tell all of its clips, and their audio may be gone: if it is there, the "
                "option force takes the shard back"
            )
        return ""


def audio_state(entry: IndexEntry) -> AudioState:
    """Whether the file or the archive of a clip is there, of the size and time of change that the index has."""
    try:
        info = os.stat(entry.path)  # of the file that a link leads to
    except (OSError, ValueError):
        return "gone"
    recorded = entry.size, entry.modified  # earlier versions recorded neither
    same = None in recorded or recorded == (info.st_size, info.st_mtime_ns)
    return "there" if same else "changed"


def _salvage_index(path: Path) -> tuple[list[IndexEntry], int]:
    """The lines of an index that can be read, and how many cannot."""
    entries, damaged = [], 0
    for line in path.read_bytes().split(b"\n"):
        if not line:
            continue
        try:
            data = json.loads(line)
            if not isinstance(data, dict):
                raise ValueError("expected an index line")
            entries.append(IndexEntry.from_line(data))
        except (ValueError, RecursionError):
            damaged += 1
    return entries, damaged


def _has_more(folder: FeatureDir, shard: ShardFiles, entries: Sequence[IndexEntry]) -> bool:
    """Whether the features may have rows that no line tells, as where an index was cut short."""
    with suppress(OutputError):
        stored = folder.stored_statistics(shard)
        if stored is not None and stored.clips > len(entries):
            return True
    told = sum(entry.frames for entry in entries)
    for path in shard.data:
        with suppress(OutputError):
            if path.exists():
                reader = folder.open_shard(shard, path.name)
                try:
                    if reader.rows > told:
                        return True
                finally:
                    reader.close()
    return False


def _first(paths: Sequence[str]) -> str:
    return escape_unprintable(paths[0]) + (", ..." if len(paths) > 1 else "")
