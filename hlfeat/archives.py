"""Tar archives to clips, in the order of their members; WebDataset's shards are such. Nothing is unpacked.

Only headers are read here: a member is a range of the archive's bytes, for hlfeat/ranges.py to read. A compressed
archive has no such ranges.

Python's tarfile, like others, takes a damaged header for the end of the archive, and a first end mark for the last.
Here an archive goes on until its file ends, after an end mark (POSIX: blocks of zeros). Where anything else is found,
the archive itself is a clip that fails, beside the members before it: what follows is lost, but not in silence.
"""

from __future__ import annotations

import io
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress

from hlfeat.clip import AUDIO, Clip, Span, below, extension, printable
from hlfeat.errors import ClipError, UsageError

BLOCK = tarfile.BLOCKSIZE
MAX_HEADER = 16 << 20  # bytes of an extended header: beyond, it is damaged
MAX_LINKS = 40  # as many as Linux follows

COMPRESSED = (
    *(f".tar.{kind}" for kind in ("gz", "bz2", "xz", "zst", "lz4", "lzma", "lz", "z")),
    *(".tgz", ".taz", ".tbz", ".tbz2", ".txz", ".tlz", ".tzst"),
)
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME)
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_WHY = "its members can only be reached by decompressing all before them; decompress it first"


def is_archive(path: str) -> bool:
    """Whether a name is that of a tar archive, be it compressed."""
    return path.lower().endswith((".tar", *COMPRESSED))


def refuse_compressed(path: str) -> None:
    """Raises UsageError for the name of a compressed archive."""
    if path.lower().endswith(COMPRESSED):
        raise UsageError(f"{printable(path)}: expected a .tar that is not compressed: {_WHY}")


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
            found.update((m.offset, m) for m in _listed(file, info.st_size))
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
    return Clip(posixpath.join(prefix, below(member.name)), path, span=span, fault=fault)


def _listed(file: _HeaderFile, size: int) -> Iterator[tarfile.TarInfo]:
    """All members of all archives in a file, one archive after the other; ClipError for what is neither."""
    if size == 0:
        raise ClipError("empty", "the file has 0 bytes")
    at, last = 0, ""
    try:
        while at < size:
            file.seek(at)
            with suppress(_EndMarkError):
                archive = tarfile.TarFile(fileobj=file, tarinfo=_Header, encoding="utf-8", errors="surrogateescape")
                while member := archive.next():
                    if member.size < 0 or archive.offset <= member.offset:
                        raise ValueError("a size below zero")
                    at, last = archive.offset, f" after {member.name}"
                    yield member
                    if at > size:
                        raise EOFError
                raise ValueError("damaged header")  # where tarfile ends the list in silence
            at = _after_zeros(file, at)
    except EOFError as e:
        message = f"the archive ends at byte {size} without its end mark{last}; what followed is lost"
        raise ClipError("truncated", message) from e
    except OSError as e:
        raise ClipError("unreadable", f"the archive, from byte {at}{last}: {e.strerror or e}") from e
    except Exception as e:  # tarfile raises what it comes across
        message = f"expected a member of the archive at byte {at}{last}: {e}; what follows is lost"
        raise ClipError("corrupt", message) from e


def _compression(file: _HeaderFile) -> str | None:
    file.seek(0)
    start = file.read(6)
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)


def _after_zeros(file: _HeaderFile, at: int) -> int:
    """The first block from `at` on that is not zeros."""
    file.seek(at)
    while zeros := file.read(1 << 20):
        rest = len(zeros.lstrip(b"\0"))
        if rest:
            return at + (len(zeros) - rest) // BLOCK * BLOCK
        at += len(zeros)
    return at


class _HeaderFile(io.FileIO):
    """A file of which headers are read, and nothing that is as large as a member."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER:
            raise ValueError(f"a header of {size} bytes")
        data = super().read(size) or b""
        while len(data) < size and (more := super().read(size - len(data))):
            data += more
        return data


class _EndMarkError(tarfile.HeaderError):
    """A block of zeros: here an archive ends."""


class _Header(tarfile.TarInfo):
    """A member's header; the end of the archive and the end of the file are errors that tarfile does not swallow."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        """Of the common kinds it reads what tells where a member's bytes are, in half the time."""
        if len(buf) != BLOCK:
            raise EOFError
        if not any(buf):
            raise _EndMarkError
        kind = bytes(buf[156:157])
        if kind in _PLAIN:
            with suppress(ValueError):
                size, checksum = int(buf[124:136].strip(b" \0"), 8), int(buf[148:156].strip(b" \0"), 8)
                name = buf[:100].partition(b"\0")[0].decode(encoding, errors)
                if checksum == sum(buf[:148]) + 8 * ord(" ") + sum(buf[156:]) and not name.endswith("/"):
                    prefix = buf[345:500].partition(b"\0")[0].decode(encoding, errors)
                    header = cls(f"{prefix}/{name}" if prefix else name)
                    header.size, header.type = size, kind
                    return header
        return super().frombuf(buf, encoding, errors)
