"""Tar archives, such as WebDataset's shards. Nothing is unpacked.

Only headers are read here. A member is a range of the archive's bytes, which hlfeat/audio/byte_source.py reads; a
compressed archive has no such ranges.

Python's tarfile, like other readers, takes a damaged header for the end of the archive, and stops at the first end
mark (POSIX: blocks of zeros). Here an archive goes on until its file ends, and the last thing in it must be an end
mark. Where it is not, the clips before the damage are used and the archive itself is one more clip, which fails. So no
loss is silent.
"""

from __future__ import annotations

import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import replace

from hlfeat.audio.clip import Clip, Span, relative_id
from hlfeat.audio.copies import Stamp
from hlfeat.audio.formats import has_audio_name, is_apple_double
from hlfeat.errors import ClipError, UsageError
from hlfeat.inputs.archive_headers import RemoteHeaders
from hlfeat.inputs.base import GIVEN, Argument, InputKind, Origin, Skipped
from hlfeat.inputs.tar_members import HeaderFile, list_members
from hlfeat.inputs.urls import end_run
from hlfeat.remote.objects import stamp_of_file
from hlfeat.remote.retries import RemoteError
from hlfeat.text import count, escape_unprintable

MAX_LINKS = 40  # as many as Linux follows

COMPRESSED = (
    *(f".tar.{kind}" for kind in ("gz", "bz2", "xz", "zst", "lz4", "lzma", "lz", "z")),
    *(".tgz", ".taz", ".tbz", ".tbz2", ".txz", ".tlz", ".tzst"),
)
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_REASON = "its members can only be reached by decompressing all before them; decompress it first"


class Archive(InputKind):
    """A tar archive, by name: its audio members, in its order."""

    def matches(self, argument: Argument) -> bool:
        if argument.origin is Origin.FOLDER and is_apple_double(argument.path):
            return False
        return argument.name.lower().endswith((".tar", *COMPRESSED))

    def clips(self, argument: Argument) -> Iterator[Clip | Skipped]:
        path = escape_unprintable(argument.path)
        if argument.origin in GIVEN and argument.name.lower().endswith(COMPRESSED):
            raise UsageError(f"{path}: expected a .tar that is not compressed: {_REASON}")
        if argument.url is not None:
            yield from _archive_at_url(argument, argument.url)
            return
        if argument.origin is Origin.MANIFEST and argument.status is None:
            raise UsageError(f"{path}: the archive cannot be read: no such file")
        yield from archive_clips(argument.path, argument.id, argument.prefix)


def archive_clips(path: str, id_: str, prefix: str = "") -> Iterator[Clip | Skipped]:
    """The audio members of an archive, in its order.

    Args:
        path: of the archive.
        id_: of the clip that stands for the archive itself, where it cannot be read to its end.
        prefix: goes before the ids, which are the members' names.
    """
    try:
        info = os.stat(path)
        if path.lower().endswith(COMPRESSED):
            yield Clip(id_, path, fault=("unsupported", f"a compressed archive: {_REASON}"))
            return
        if not stat.S_ISREG(info.st_mode):
            raise OSError
        file = HeaderFile(path)
    except (OSError, ValueError):
        yield Clip(id_, path)  # decoding it will say why it cannot be read
        return
    yield from _members(file, (info.st_size, info.st_mtime_ns), Clip(id_, path), prefix)


def _archive_at_url(argument: Argument, url: str) -> Iterator[Clip | Skipped]:
    """The audio members of an archive at a URL. Where it cannot be read, it fails, or ends the run if it is given."""
    whole = Clip(argument.id, argument.path, url=argument.secret_url)
    if argument.name.lower().endswith(COMPRESSED):
        yield replace(whole, fault=("unsupported", f"a compressed archive: {_REASON}"))
        return
    try:
        stamp = argument.listed or stamp_of_file(url, argument.reading.retries)
        file = RemoteHeaders(url, stamp[0], argument.reading.retries)
        file.read(1)  # whether its server sends parts of files
    except RemoteError as e:
        if argument.origin in GIVEN or e.code == "unreachable":
            end_run(argument.path, e)
        yield replace(whole, fault=(e.code, str(e)))
        return
    yield from _members(file, stamp, whole, argument.prefix)


def _members(file: HeaderFile | RemoteHeaders, stamp: Stamp, whole: Clip, prefix: str) -> Iterator[Clip | Skipped]:
    """The audio members of an archive.

    Args:
        file: the archive; it is closed.
        stamp: its size in bytes and modification time.
        whole: stands for the archive itself, where it cannot be read to its end.
        prefix: goes before the ids, which are the members' names.
    """
    path = whole.path
    headers: dict[int, tarfile.TarInfo] = {}  # by offset
    fault = None
    with file:
        try:
            headers.update((m.offset, m) for m in list_members(file, stamp[0]))
        except RemoteError as e:
            if e.code == "unreachable":
                end_run(path, e)
            fault = (e.code, f"the archive, after {count(len(headers), 'member')}: {e}")
        except ClipError as e:
            fault = (e.code, str(e))
            if not headers and (kind := _compression(file)):
                fault = ("unsupported", f"an archive compressed with {kind}: {_REASON}")
    links = any(m.issym() or m.islnk() for m in headers.values())
    by_name = {posixpath.normpath(m.name): m for m in headers.values()} if links else {}
    hidden_folders = set()
    for member in headers.values():
        hidden = _hidden_folder(member)
        if hidden is not None:
            if hidden not in hidden_folders:
                yield Skipped(f"{path}: {hidden}", is_folder=True)
            hidden_folders.add(hidden)
        elif has_audio_name(member.name) and not member.isdir():
            yield _clip(whole, prefix, member, by_name, stamp)
        elif not member.isdir():
            yield Skipped(f"{path}: {member.name}")
    if fault is not None:
        yield replace(whole, fault=fault)


def _hidden_folder(member: tarfile.TarInfo) -> str | None:
    """The folder that the member is below, or is, whose name begins with a dot; None if there is none."""
    if "." not in member.name[:1] and "/." not in member.name:
        return None
    parts = member.name.split("/")
    folders = parts if member.isdir() else parts[:-1]
    depth = next((i for i, name in enumerate(folders, 1) if name.startswith(".") and name not in (".", "..")), None)
    return None if depth is None else "/".join(folders[:depth])


def _clip(
    archive: Clip, prefix: str, member: tarfile.TarInfo, by_name: Mapping[str, tarfile.TarInfo], stamp: Stamp
) -> Clip:
    fault = None
    source: tarfile.TarInfo | None = member
    for _ in range(MAX_LINKS):
        if source is None or not (source.issym() or source.islnk()):
            break
        folder = posixpath.dirname(source.name) if source.issym() else ""
        source = by_name.get(posixpath.normpath(posixpath.join(folder, source.linkname)))
    if source is None or source.issym() or source.islnk():
        fault = ("missing", f"a link to {member.linkname}, which is not in the archive")
    elif source.issparse():
        fault = ("unsupported", "a sparse member, whose samples are not in one piece")
    elif not source.isreg():
        fault = ("not-audio", "expected a file, found another kind of member")
    source = source or member
    span = Span(member.name, source.offset_data, source.size, stamp)
    id_ = posixpath.join(prefix, relative_id(member.name))
    return Clip(id_, archive.path, span=span, fault=fault, url=archive.url)


def _compression(file: HeaderFile | RemoteHeaders) -> str | None:
    file.seek(0)
    start = file.read(6)
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
