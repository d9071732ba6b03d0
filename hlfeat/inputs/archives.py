"""Tar archives to clips, in the order of their members; WebDataset's shards are such. Nothing is unpacked.

Only headers are read here: a member is a range of the archive's bytes, which hlfeat/audio/byte_source.py reads. A
compressed archive has no such ranges.

Python's tarfile, like others, takes a damaged header for the end of the archive, and a first end mark for the last.
Here an archive goes on until its file ends, after an end mark (POSIX: blocks of zeros). Where anything else is found,
the archive itself is a clip that fails, beside the members before it: what follows is lost, but not in silence.
"""

from __future__ import annotations

import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator, Mapping

from hlfeat.audio.clip import Clip, Span, relative_id
from hlfeat.audio.formats import AUDIO, extension
from hlfeat.errors import ClipError, UsageError
from hlfeat.inputs.tar_members import _HeaderFile, list_members
from hlfeat.text import escape_unprintable

MAX_LINKS = 40  # as many as Linux follows

COMPRESSED = (
    *(f".tar.{kind}" for kind in ("gz", "bz2", "xz", "zst", "lz4", "lzma", "lz", "z")),
    *(".tgz", ".taz", ".tbz", ".tbz2", ".txz", ".tlz", ".tzst"),
)
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_WHY = "its members can only be reached by decompressing all before them; decompress it first"


def is_archive(path: str) -> bool:
    """Whether a name is that of a tar archive, be it compressed."""
    return path.lower().endswith((".tar", *COMPRESSED))


def refuse_compressed(path: str) -> None:
    """Raises UsageError for the name of a compressed archive."""
    if path.lower().endswith(COMPRESSED):
        raise UsageError(f"{escape_unprintable(path)}: expected a .tar that is not compressed: {_WHY}")


def members(path: str, name: str, prefix: str = "") -> Iterator[Clip | None]:
    """The audio members of an archive, in its order; None for a member that is passed over.

    Args:
        path: of the archive.
        name: the id of the clip that stands for the archive where it cannot be read to its end.
        prefix: of the ids, which are the members' names.
    """
    if path.lower().endswith(COMPRESSED):
        yield Clip(name, path, fault=("unsupported", f"a compressed archive: {_WHY}"))
        return
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            raise OSError
        file = _HeaderFile(path)
    except (OSError, ValueError):
        yield Clip(name, path)  # decoding it will say why it cannot be read
        return
    found: dict[int, tarfile.TarInfo] = {}
    fault = None
    with file:
        try:
            found.update((m.offset, m) for m in list_members(file, info.st_size))
        except ClipError as e:
            fault = (e.code, str(e))
            if not found and (kind := _compression(file)):
                fault = ("unsupported", f"an archive compressed with {kind}: {_WHY}")
    links = any(m.issym() or m.islnk() for m in found.values())
    named = {posixpath.normpath(m.name): m for m in found.values()} if links else {}
    stamp = (info.st_size, info.st_mtime_ns)
    for member in found.values():
        if extension(member.name) in AUDIO and not member.isdir():
            yield _clip(path, prefix, member, named, stamp)
        elif not member.isdir():
            yield None
    if fault is not None:
        yield Clip(name, path, fault=fault)


def _clip(
    path: str, prefix: str, member: tarfile.TarInfo, named: Mapping[str, tarfile.TarInfo], stamp: tuple[int, int]
) -> Clip:
    fault = None
    source: tarfile.TarInfo | None = member
    for _ in range(MAX_LINKS):
        if source is None or not (source.issym() or source.islnk()):
            break
        folder = posixpath.dirname(source.name) if source.issym() else ""
        source = named.get(posixpath.normpath(posixpath.join(folder, source.linkname)))
    if source is None or source.issym() or source.islnk():
        fault = ("missing", f"a link to {member.linkname}, which is not in the archive")
    elif source.issparse():
        fault = ("unsupported", "a sparse member, whose samples are not in one piece")
    elif not source.isreg():
        fault = ("not-audio", "expected a file, found another kind of member")
    source = source or member
    span = Span(member.name, source.offset_data, source.size, stamp)
    return Clip(posixpath.join(prefix, relative_id(member.name)), path, span=span, fault=fault)


def _compression(file: _HeaderFile) -> str | None:
    file.seek(0)
    start = file.read(6)
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
