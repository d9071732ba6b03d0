"""Inputs to clips: files, folders, archives, and lists of paths, in an order that depends on their names alone."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from hlfeat.archives import is_archive, members, refuse_compressed
from hlfeat.clip import AUDIO, Clip, below, extension, place, printable
from hlfeat.errors import UsageError
from hlfeat.manifests import is_manifest, read_manifest

LISTS = frozenset({"txt", "lst", "list"})


@dataclass
class Inputs:
    """All clips of a run, in order, and how many files of folders were passed over as no audio."""

    clips: list[Clip] = field(default_factory=list)
    ignored: int = 0


def collect(paths: Sequence[str], stdin: BinaryIO, null: bool = False, manifests: Sequence[str] = ()) -> Inputs:
    """Find the clips that the command's arguments mean.

    A folder stands for the audio files below it (by extension), a clip's id being its path below the folder. A file's
    id is its name. `-` and *.txt are lists of paths, one a line (`null`: NUL-separated); their ids are the paths as
    written, without leading `/`, `./` and `../`. An archive stands for its audio members (see hlfeat/archives.py), a
    clip's id being the member's name; of an archive in a folder, the archive's id, `/` and the member's name. Manifests
    (see hlfeat/manifests.py) may also be among the paths.

    Raises UsageError for two clips of one id, and where there is no clip at all.
    """
    inputs = Inputs()
    for path in paths:
        if not path.strip("/"):
            raise UsageError(f"expected a file, a folder, a list or -, got {path!r}")
        if path == "-":
            _add_list(inputs, stdin.read(), null)
        elif is_manifest(path):
            inputs.clips += read_manifest(path)
        elif os.path.isdir(path):
            _add_folder(inputs, path)
        elif is_archive(path):
            refuse_compressed(path)
            _add(inputs, members(path, posixpath.basename(path)))
        elif extension(path) in LISTS:
            _add_list_file(inputs, path, null)
        else:
            inputs.clips.append(Clip(posixpath.basename(path.rstrip("/")), path))
    for path in manifests:
        if extension(path) in LISTS:
            _add_list_file(inputs, path, null)
        elif is_archive(path):
            refuse_compressed(path)
            if not os.path.exists(path):
                raise UsageError(f"{printable(path)}: the archive cannot be read: no such file")
            _add(inputs, members(path, posixpath.basename(path)))
        else:
            inputs.clips += read_manifest(path)
    if not inputs.clips:
        shown = ", ".join(printable(p) for p in [*paths, *manifests][:3])
        passed = f" (files that are no audio by name: {inputs.ignored})" if inputs.ignored else ""
        raise UsageError(f"no audio files in {shown}{passed}")
    _refuse_duplicates(inputs.clips)
    return inputs


def _add_list_file(inputs: Inputs, path: str, null: bool) -> None:
    try:
        with open(path, "rb") as f:
            _add_list(inputs, f.read(), null)
    except OSError as e:
        raise UsageError(f"{printable(path)}: the list cannot be read: {e.strerror}") from e


def _add_list(inputs: Inputs, data: bytes, null: bool) -> None:
    data = data.removeprefix(b"\xef\xbb\xbf")  # some editors begin a text file with a byte order mark
    if not null and b"\0" in data:
        raise UsageError("the list has NUL bytes in it: are its paths NUL-separated (-0)?")
    lines = data.split(b"\0") if null else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    for path in map(os.fsdecode, filter(None, lines)):
        if os.path.isdir(path):
            _add_folder(inputs, path)
        elif is_archive(path):
            _add(inputs, members(path, below(path)))
        elif below(path):
            inputs.clips.append(Clip(below(path), path))
        else:
            raise UsageError(f"expected paths in the list, got {printable(path)!r}")


def _add_folder(inputs: Inputs, folder: str) -> None:
    _add(inputs, _walk(folder))


def _add(inputs: Inputs, found: Iterable[Clip | None]) -> None:
    for clip in found:
        if clip is None:
            inputs.ignored += 1
        else:
            inputs.clips.append(clip)


def _walk(top: str) -> Iterator[Clip | None]:
    """Clips of a folder in the order of their names; None for a file that is passed over. Links are followed."""
    # what is left of each folder on the way down, and which it is: they may be nested deeper than calls can be
    stack: list[tuple[Iterator[tuple[str, str]], tuple[int, int]]] = [(iter([(top, "")]), (0, 0))]
    while stack:
        path, id_ = next(stack[-1][0], ("", ""))
        if not path:
            stack.pop()
            continue
        try:
            info = os.stat(path)
            here = (info.st_dev, info.st_ino)
            if stat.S_ISDIR(info.st_mode):
                if all(here != other for _, other in stack):  # not a link back up
                    stack.append((_entries(path, id_, sorted(os.listdir(path))), here))
                continue
        except OSError:  # what is there cannot be told, so it is not passed over: decoding it will say why
            yield Clip(id_ or posixpath.basename(path), path)
            continue
        if is_archive(path):
            yield from members(path, id_, id_)
        else:
            # "._a.wav" is not audio, but what macOS puts beside a.wav on other file systems
            is_clip = extension(path) in AUDIO and not posixpath.basename(path).startswith("._")
            yield Clip(id_, path) if is_clip else None


def _entries(folder: str, id_: str, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    return ((posixpath.join(folder, name), posixpath.join(id_, name)) for name in names)


def _refuse_duplicates(clips: Iterable[Clip]) -> None:
    seen: dict[str, Clip] = {}
    for clip in clips:
        first = seen.setdefault(clip.id, clip)
        if first is not clip:
            raise UsageError(f"two clips with the id {printable(clip.id)}: {_both(first, clip)}")


def _both(first: Clip, second: Clip) -> str:
    if first.path != second.path:
        return f"{place(first)} and {place(second)}; give the folder above them, or a list of paths"
    if first.span == second.span or first.span is None or second.span is None:
        return f"{place(first)} given twice"
    return f"{place(first)} at byte {first.span.offset} and {printable(second.name)} at byte {second.span.offset}"
