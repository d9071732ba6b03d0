"""Notes which clips are being read, in a file that outlives the process, in case that a decoder takes it down.

Decoders run in threads: one that crashes (SIGSEGV, SIGABRT) ends the run, and would end every resumed run at the same
clip. So a resumed run first tries in a process of its own what was being read when the last run died, and a clip that
crashes that process too is a failure like any other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from hlfeat.audio.clip import Clip
from hlfeat.extraction.decode_probe import probe

_SIZE = 16  # bytes of a slot in the file: a digest of a clip's id, or zeros
_SLOTS = 64  # clips at once; more are not recorded


class CrashGuard:
    """The record of one run; as a context, it keeps the file.

    Args:
        path: of the file, which an earlier run has left behind if it died.
        crashed: ids of clips that are known to have crashed a decoder.
    """

    def __init__(self, path: Path, crashed: Iterable[str] = ()) -> None:
        self.path = path
        self._suspects = {_digest(id_) for id_ in crashed}
        with suppress(FileNotFoundError):
            record = path.read_bytes()
            self._suspects |= {record[i : i + _SIZE] for i in range(0, len(record), _SIZE)} - {bytes(_SIZE)}
        self._file: int | None = None
        self._free = list(range(_SLOTS))

    def __enter__(self) -> CrashGuard:
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        # Suspects stay in the file until the run ends: it may die of another one. The zeros reserve space on the disk.
        os.write(self._file, bytes(_SIZE * _SLOTS) + b"".join(sorted(self._suspects)))
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        os.close(self._file)
        self.path.unlink(missing_ok=True)

    @contextmanager
    def reading(self, clip: Clip, channels: str | int) -> Iterator[None]:
        """Around everything that a decoder does with a clip.

        Raises ClipError "crashed" for a suspect that crashes a process of its own.
        """
        digest = _digest(clip.id)
        if digest in self._suspects:
            probe(clip, channels)
            self._suspects.discard(digest)  # once is enough: a long clip is read more than once
        slot = self._free.pop() if self._free and self._file is not None else None
        if slot is None:
            yield
            return
        self._write(slot, digest)
        try:
            yield
        finally:
            self._write(slot, bytes(_SIZE))
            self._free.append(slot)

    def _write(self, slot: int, digest: bytes) -> None:
        assert self._file is not None
        with suppress(OSError):  # a missing record is no reason to stop
            os.pwrite(self._file, digest, slot * _SIZE)


def _digest(id_: str) -> bytes:
    return blake2b(id_.encode(errors="surrogatepass"), digest_size=_SIZE).digest()
