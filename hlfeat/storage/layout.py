"""Names of the files in a feature directory; no other module knows one.

    hlfeat.yaml           the description of the run            shard-00000.npy    features of many clips (or .pt)
    failures.jsonl        clips that could not be used          shard-00000.jsonl  their index, a line for each clip
    report.json           what the run did                      stats-00000.json   statistics of the same features

While a run is at work there are also `hlfeat.lock` and files whose names end in `.tmp`, and with workers on other
machines `hlfeat.driver`. Each part of a run writes files of its own: `shard-p1of4-00000.npy`, `failures-p1of4.jsonl`.

A directory of pitch tracks has no features and no statistics. It has `a/b.wav.f0.csv` for the clip `a/b.wav`, and the
index of many of these in `shard-00000.jsonl`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hlfeat.config.choices import ShardFormat
from hlfeat.files import TEMPORARY
from hlfeat.partition import WHOLE, Part

Kind = Literal["shard", "index", "statistics", "failures", "report", "description", "lock", "driver", "busy"]

TRACK_SUFFIX = ".f0.csv"
SHARD_SUFFIXES = tuple(f".{name}" for name in get_args(ShardFormat))

_KINDS: dict[tuple[str, str], Kind] = {  # by stem and suffix
    **dict.fromkeys((("shard", suffix) for suffix in SHARD_SUFFIXES), "shard"),
    ("shard", ".jsonl"): "index",
    ("stats", ".json"): "statistics",
    ("failures", ".jsonl"): "failures",
    ("report", ".json"): "report",
    ("hlfeat", ".yaml"): "description",
    ("hlfeat", ".lock"): "lock",
    ("hlfeat", ".driver"): "driver",
    ("hlfeat", ".busy"): "busy",  # of earlier versions, which recorded in it what was being read
}
_NUMBERED = ("shard", "index", "statistics")
_NEVER_TEMPORARY = ("lock", "driver", "busy")
_OF_NO_USE_LATER = ("driver", "busy")
_NAME = re.compile(
    r"(?P<stem>[a-z]+)(?P<label>-p(?P<index>[0-9]+)of(?P<of>[0-9]+))?(?:-(?P<number>[0-9]{5,}))?(?P<suffix>\.[a-z0-9]+?)"
    rf"(?P<temporary>{re.escape(TEMPORARY)}|(?P<claim>\.[0-9a-f]{{32}}))?"
)


@dataclass(frozen=True, slots=True)
class FileName:
    """What the name of a file says.

    Attributes:
        kind: what is in it.
        part: of the run that wrote it.
        number: of the shard; None for a file that belongs to no shard.
        temporary: whether it is half-written, beside the name it will get, or else of no use after its run.
    """

    kind: Kind
    part: Part
    number: int | None
    temporary: bool


class Layout:
    """The paths of the files that one part of a run writes.

    >>> layout = Layout(Path("features"), Part(of=4, index=1))
    >>> layout.shard(7, ".npy").name, layout.failures.name, layout.description.name
    ('shard-p1of4-00007.npy', 'failures-p1of4.jsonl', 'hlfeat.yaml')
    >>> Layout.parse("shard-p1of4-00007.jsonl")
    FileName(kind='index', part=Part(of=4, index=1), number=7, temporary=False)
    """

    def __init__(self, folder: Path, part: Part = WHOLE) -> None:
        self.folder, self.part = folder, part
        self._label = part_label(part)

    @property
    def whole(self) -> Layout:
        """The files that all parts share: `failures.jsonl` and `report.json` of the whole run."""
        return self if self.part == WHOLE else Layout(self.folder)

    @property
    def description(self) -> Path:
        """One for all parts."""
        return self.folder / "hlfeat.yaml"

    @property
    def failures(self) -> Path:
        return self.folder / f"failures{self._label}.jsonl"

    @property
    def report(self) -> Path:
        return self.folder / f"report{self._label}.json"

    @property
    def lock(self) -> Path:
        return self.folder / f"hlfeat{self._label}.lock"

    @property
    def driver(self) -> Path:
        """Says which process has workers elsewhere do the parts: one for all parts."""
        return self.folder / "hlfeat.driver"

    def claim(self, token: str) -> Path:
        """The claim to the lock of a run that has died, which `token` identifies: 32 hexadecimal digits."""
        return self.folder / f"{self.lock.name}.{token}"

    def shard_name(self, number: int) -> str:
        """The name of a shard without suffix, as failures.jsonl gives it."""
        return f"shard{self._label}-{number:05d}"

    def shard(self, number: int, suffix: str) -> Path:
        """The features of a shard; `suffix`: of the format, such as `.npy`."""
        return self.folder / f"{self.shard_name(number)}{suffix}"

    def index(self, number: int) -> Path:
        """The index of a shard, whose existence says that the shard is finished."""
        return self.shard(number, ".jsonl")

    def statistics(self, number: int) -> Path:
        """The statistics of a shard."""
        return self.folder / f"stats{self._label}-{number:05d}.json"

    def track(self, id_: str) -> Path:
        """The pitch track of a clip. Raises ValueError where the id cannot be the name of one, as `track_name` does."""
        return self.folder / track_name(id_)

    def draft(self, shared: Path) -> str:
        """The name of this part's draft of a file that all parts may write at the same time."""
        return f"{shared.stem}{self._label}{shared.suffix}"

    @staticmethod
    def parse(name: str) -> FileName | None:
        """What the name of a file says; None for a name that no run gives."""
        match = _NAME.fullmatch(name)
        kind = match and _KINDS.get((match["stem"], match["suffix"]))
        if match is None or kind is None or (match["number"] is None) != (kind not in _NUMBERED):
            return None
        if match["claim"]:
            if kind != "lock":
                return None
        elif match["temporary"] and kind in _NEVER_TEMPORARY:
            return None
        part = Part(int(match["of"]), int(match["index"])) if match["label"] else WHOLE
        number = None if match["number"] is None else int(match["number"])
        return FileName(kind, part, number, match["temporary"] is not None or kind in _OF_NO_USE_LATER)


def part_label(part: Part) -> str:
    """What the names of a part's files have in them: nothing where there is one part only."""
    return "" if part.of == 1 else f"-p{part.index:0{len(str(part.of))}d}of{part.of}"


def track_name(id_: str) -> str:
    """The path of a clip's pitch track below the folder. Different ids have different paths, none inside another.

    Raises ValueError for an id that leads out of the folder or to one of hlfeat's own files, or is no path at all.

    >>> track_name("a/b.wav")
    'a/b.wav.f0.csv'
    >>> track_name("../b.wav")
    Traceback (most recent call last):
    ...
    ValueError: expected a path below a folder
    """
    *folders, name = id_.split("/")
    if "\0" in id_ or any(part in ("", ".", "..") for part in (*folders, name)):
        raise ValueError("expected a path below a folder")
    if any(part.endswith((TRACK_SUFFIX, TRACK_SUFFIX + TEMPORARY)) for part in folders):
        raise ValueError(f"a folder's name that ends in {TRACK_SUFFIX} may be that of another clip's track")
    if folders and Layout.parse(folders[0]) is not None:
        raise ValueError(f"{folders[0]} is the name of one of hlfeat's files")
    os.fsencode(id_)  # UnicodeEncodeError is a ValueError
    return id_ + TRACK_SUFFIX


@dataclass(frozen=True, slots=True)
class ShardFiles:
    """The files of one shard."""

    layout: Layout
    number: int

    @property
    def name(self) -> str:
        """The name of the shard without suffix."""
        return self.layout.shard_name(self.number)

    @property
    def index(self) -> Path:
        return self.layout.index(self.number)

    @property
    def draft_index(self) -> Path:
        """The index while the shard is published: it says which pitch tracks may be there already."""
        return self.index.with_name(self.index.name + TEMPORARY)

    @property
    def statistics(self) -> Path:
        return self.layout.statistics(self.number)

    @property
    def data(self) -> tuple[Path, ...]:
        """Where the features can be: a path for each format, of which one exists."""
        return tuple(self.layout.shard(self.number, suffix) for suffix in SHARD_SUFFIXES)

    @property
    def expected_names(self) -> str:
        """What the features can be called, for a message: 'shard-00000.npy or .pt'."""
        return " or ".join([self.data[0].name, *SHARD_SUFFIXES[1:]])


def own_files(folder: Path) -> Iterator[tuple[Path, FileName]]:
    """The files of a folder that have the names of a feature directory."""
    for path in folder.iterdir():
        if name := Layout.parse(path.name):
            yield path, name


def indexed_shards(folder: Path) -> list[ShardFiles]:
    """The finished shards, by part and number."""
    names = (name for _, name in own_files(folder) if name.kind == "index" and not name.temporary)
    places = sorted((name.part, name.number) for name in names if name.number is not None)
    layouts = {part: Layout(folder, part) for part in {part for part, _ in places}}
    return [ShardFiles(layouts[part], number) for part, number in places]


def shard_number(name: str) -> int | None:
    """The number in the name of a shard without suffix; None for another name.

    >>> shard_number("shard-p1of4-00007")
    7
    """
    parsed = Layout.parse(f"{name}{SHARD_SUFFIXES[0]}")
    return parsed.number if parsed is not None and parsed.kind == "shard" else None
