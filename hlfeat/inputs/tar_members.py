"""The members of a tar archive, from its headers alone."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import suppress

from hlfeat.errors import ClipError

BLOCK = tarfile.BLOCKSIZE
MAX_HEADER = 16 << 20  # bytes of an extended header: beyond, it is damaged
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME)


def list_members(file: _HeaderFile, size: int) -> Iterator[tarfile.TarInfo]:
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
