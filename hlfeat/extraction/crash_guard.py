"""Which clips are being read right now, in a file that outlives the process, in case that a decoder takes it down.

Decoders run in threads: one that crashes (SIGSEGV, SIGABRT) ends the run, and would end every continuation of it at the
same clip. So a continued run first tries in a process of its own what was being read when the last one died, and a clip
that kills that process too is a failure like any other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from hlfeat.audio.clip import Clip
from hlfeat.extraction.decode_probe import check_alone

_SIZE = 16  # bytes of a place in the file: a digest of a clip's id, or zeros
_PLACES = 64  # as many at once; whoever finds none free is not recorded


class CrashGuard:
    """The record of one run.

    Args:
        path: of the file, which the last run has left behind if it died.
        crashed: ids of clips that are known to have crashed a decoder.
    """

    def __init__(self, path: Path, crashed: Iterable[str] = ()) -> None:
        self.path = path
        self._suspects = {_digest(id_) for id_ in crashed}
        with suppress(FileNotFoundError):
            left = path.read_bytes()
            self._suspects |= {left[i : i + _SIZE] for i in range(0, len(left), _SIZE)} - {bytes(_SIZE)}
        self._file: int | None = None
        self._free = list(range(_PLACES))

    def __enter__(self) -> CrashGuard:
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        # suspects stay on record until the run is over: it may die of another one; zeros take the room on the disk
        os.write(self._file, bytes(_SIZE * _PLACES) + b"".join(sorted(self._suspects)))
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        os.close(self._file)
        self.path.unlink(missing_ok=True)

    @contextmanager
    def reading(self, clip: Clip, channels: str | int) -> Iterator[None]:
        """Around everything that a decoder does with a clip.

        Raises ClipError "crashed" for a clip that takes a process of its own down.
        """
        digest = _digest(clip.id)
        if digest in self._suspects:
            check_alone(clip, channels)
            self._suspects.discard(digest)  # once is enough: a long clip is read more than once
        place = self._free.pop() if self._free and self._file is not None else None
        if place is None:
            yield
            return
        self._note(place, digest)
        try:
            yield
        finally:
            self._note(place, bytes(_SIZE))
            self._free.append(place)

    def _note(self, place: int, digest: bytes) -> None:
        with suppress(OSError):  # a record that is missing is no reason to stop
            os.pwrite(self._file, digest, place * _SIZE)  # type: ignore[arg-type]


def _digest(id_: str) -> bytes:
    return blake2b(id_.encode(errors="surrogatepass"), digest_size=_SIZE).digest()
