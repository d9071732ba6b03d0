"""The members of a tar archive, from its headers alone."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import suppress

from hlfeat.errors import ClipError
from hlfeat.remote.retries import RemoteError

BLOCK = tarfile.BLOCKSIZE
MAX_HEADER = 16 << 20  # bytes of an extended header: beyond, it is damaged
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME)


def list_members(file: HeaderFile | io.RawIOBase, size: int) -> Iterator[tarfile.TarInfo]:
    """Members of all archives in a file, one archive after the other.

    Args:
        file: open at any position.
        size: of the file, in bytes.

    Raises:
        ClipError: empty, truncated, corrupt, unreadable; members before the damage have been yielded.
        RemoteError: of an archive at a URL.
    """
    if size == 0:
        raise ClipError("empty", "the file has 0 bytes")
    offset, last = 0, ""
    try:
        while offset < size:
            file.seek(offset)
            with suppress(_EndMarkError):
                archive = tarfile.TarFile(fileobj=file, tarinfo=_Header, encoding="utf-8", errors="surrogateescape")
                while member := archive.next():
                    if member.size < 0 or archive.offset <= member.offset:
                        raise ValueError("a size below zero")
                    offset, last = archive.offset, f" after {member.name}"
                    yield member
                    if offset > size:
                        raise EOFError
                raise ValueError("damaged header")  # tarfile would end the list here without an error
            offset = _after_zeros(file, offset)
    except EOFError as e:
        message = f"the archive ends at byte {size} without its end mark{last}; what followed is lost"
        raise ClipError("truncated", message) from e
    except OSError as e:
        raise ClipError("unreadable", f"the archive, from byte {offset}{last}: {e.strerror or e}") from e
    except RemoteError:
        raise
    except Exception as e:  # tarfile raises errors of many types
        message = f"expected a member of the archive at byte {offset}{last}: {e}; what follows is lost"
        raise ClipError("corrupt", message) from e


def _after_zeros(file: HeaderFile | io.RawIOBase, offset: int) -> int:
    """The offset of the first block from `offset` on that is not all zeros."""
    file.seek(offset)
    while zeros := file.read(1 << 20) or b"":
        rest = len(zeros.lstrip(b"\0"))
        if rest:
            return offset + (len(zeros) - rest) // BLOCK * BLOCK
        offset += len(zeros)
    return offset


class HeaderFile(io.FileIO):
    """A file that refuses to read more than a header at once, as a damaged header may ask for gigabytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER:
            raise ValueError(f"a header of {size} bytes")
        data = super().read(size) or b""
        while len(data) < size and (more := super().read(size - len(data))):
            data += more
        return data


class _EndMarkError(tarfile.HeaderError):
    """A block of zeros, the end mark of an archive."""


class _Header(tarfile.TarInfo):
    """A member's header. Raises errors at the end of the archive and of the file which tarfile does not suppress."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        """Parse a header; of common kinds only name, size and checksum, which takes half the time."""
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
