"""Files that are written beside their name, synced and renamed into place."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from hlfeat.errors import OUT_OF_FILES, OutputError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def disk_error(e: OSError, folder: Path) -> OutputError:
    """What a failed write means to a person."""
    if e.errno in FULL_DISK:
        return OutputError(
            f"{folder}: no space left on the disk; what is finished is kept: "
            "free some space and run the same command again"
        )
    if e.errno in OUT_OF_FILES:
        return OutputError("too many open files: raise the limit (ulimit -n), and run the same command again")
    return OutputError(f"{folder}: cannot be written: {e.strerror or e}")


@contextmanager
def disk_errors_of(folder: Path) -> Iterator[None]:
    """Turns an OSError of this block, which writes into a folder, into an OutputError."""
    try:
        yield
    except OSError as e:
        raise disk_error(e, folder) from e


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, which is read in blocks. Raises OSError where it cannot be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


TEMPORARY = ".tmp"

# What file systems answer that cannot sync a folder or another kind of file (CIFS, FUSE). All that can be done is done.
_CANNOT_SYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})


def write_atomically(path: Path, data: bytes, beside: str | None = None) -> None:
    """Write a whole file beside its name (as `beside`.tmp), sync it, rename it into place, sync the folder.

    A link stays one, to the new file; a device or a pipe is written to as it is.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    temporary = path.with_name((beside or path.name) + TEMPORARY)
    try:
        with open(temporary, "wb") as f:
            f.write(data)
            sync(f)
        publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(f: IO[bytes]) -> None:
    """Write a file's data to the disk. Raises OSError where it does not get there, such as EIO or ENOSPC."""
    f.flush()
    _sync(f.fileno(), _CANNOT_SYNC)


def publish(temporary: Path, path: Path) -> None:
    """Rename a synced file into place so that it outlives a crash, where the file system can sync folders."""
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Sync the names in a folder, where the file system can."""
    folder = os.open(path, os.O_RDONLY)
    try:
        _sync(folder, _CANNOT_SYNC | {errno.EBADF})  # some want a file that is open for writing
    finally:
        os.close(folder)


def _sync(descriptor: int, ignored: frozenset[int]) -> None:
    try:
        os.fsync(descriptor)
    except OSError as e:
        if e.errno not in ignored:
            raise


# Half of a surrogate pair stands for a byte of a file name that is not UTF-8. The others end a line for some programs,
# or are control characters, which a terminal obeys.
_ESCAPED = re.compile("[\x80-\x9f\u2028\u2029\ud800-\udfff]")


def json_text(value: object) -> str:
    """JSON in which letters of any script are as they are, so that programs find them. For `json_bytes`."""
    return json.dumps(value, ensure_ascii=False)


def json_bytes(text: str) -> bytes:
    """Text in JSON as UTF-8: what is no character of UTF-8 becomes an escape, so that any file name survives.

    >>> json_bytes(json_text({"id": "Müritz", "path": "caf\\udce9"})).decode()
    '{"id": "Müritz", "path": "caf\\\\udce9"}'
    """
    if not text.isascii():
        text = _ESCAPED.sub(lambda character: f"\\u{ord(character[0]):04x}", text)
    return text.encode()


def json_lines(records: Iterable[Mapping[str, object]]) -> bytes:
    """One JSON object a line."""
    return json_bytes("".join(json_text(record) + "\n" for record in records))
