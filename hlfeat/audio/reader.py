"""A clip's file to its samples, or the reason why not. Nothing is guessed, nothing shortened silently.

libsndfile (through soundfile) reads the formats. It is forgiving where this command must not be: a file that is cut
short often reads as a shorter file. What it noticed on the way is in its log, which is checked here.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import soundfile

from hlfeat.audio.byte_source import check_span, sound_source
from hlfeat.audio.clip import Clip
from hlfeat.audio.formats import EXACT_SEEK, UNKNOWN_FRAMES, UNREADABLE, extension
from hlfeat.audio.header_checks import check_header
from hlfeat.errors import OUT_OF_FILES, ClipError

BLOCK_SAMPLES = 1 << 20  # samples of all channels read at once


@dataclass(frozen=True)
class Waveform:
    """Samples float32 [channels, T] at `sample_rate`, as many channels as the policy keeps."""

    samples: np.ndarray
    sample_rate: int
    file_channels: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return float(self.samples.shape[1] / self.sample_rate)


class _Stream(soundfile.SoundFile):  # type: ignore[misc]
    """Reads from start to end only: soundfile's own seeks fail on a FLAC that does not state its length."""

    def seekable(self) -> bool:
        return False


def decode(clip: Clip, channels: str | int = "mix", cancelled: Callable[[], bool] = lambda: False) -> Waveform:
    """Read a clip whole. Arguments and errors are those of Reader."""
    with Reader(clip, channels, cancelled) as reader:
        blocks = list(reader.blocks())
    samples = np.concatenate(blocks, axis=1) if len(blocks) > 1 else blocks[0]
    return Waveform(samples, reader.sample_rate, reader.file_channels)


class Reader:
    """An open clip: what its header says, and its samples in blocks.

    Args:
        clip: what to read.
        channels: "mix" (their mean), "first", "each" (all of them), or the number of one, from 0. A clip's own channel
            goes before it.
        cancelled: asked between blocks; when true, reading ends with a ClipError "cancelled".

    Attributes:
        sample_rate: hertz.
        file_channels: channels of the file; kept: of these, what the policy keeps.
        samples: of the clip, as the header promises; None where it does not say.

    Raises:
        ClipError: with one of the codes missing, unreadable, not-audio, unsupported, empty, truncated, corrupt,
            non-finite, bad-channel, bad-rate, bad-segment, out-of-memory, cancelled.
        OSError: no more files can be opened, which is no clip's fault.
    """

    def __init__(self, clip: Clip, channels: str | int = "mix", cancelled: Callable[[], bool] = lambda: False) -> None:
        self.clip, self._cancelled = clip, cancelled
        self._channels = channels if clip.channel is None else clip.channel
        _check_file(clip)
        with ExitStack() as opened, _explained(clip):
            self._file = opened.enter_context(_Stream(opened.enter_context(sound_source(clip)), closefd=False))
            check_header(self._file, clip, self._channels)
            self._first, self._stop = _bounds(self._file, clip)
            self._opened = opened.pop_all()
        self.sample_rate: int = self._file.samplerate
        self.file_channels: int = self._file.channels
        self.kept = self.file_channels if self._channels == "each" else 1
        end = self._file.frames if self._stop is None else self._stop
        self.samples: int | None = None if end == UNKNOWN_FRAMES else end - self._first

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def blocks(self) -> Iterator[np.ndarray]:
        """The samples from start to end, once: float32 [kept, T] each, T from 1 up.

        A header's length is a promise, not a fact: it is checked at the end.
        """
        f, clip, first, stop = self._file, self.clip, self._first, self._stop
        size = max(1, BLOCK_SAMPLES // f.channels)
        # never beyond the promised end: decoders stumble over what may follow there, such as a tag
        last = f.frames if stop is None and f.frames != UNKNOWN_FRAMES else stop
        got, found = 0, False
        with _explained(clip):
            if first and f.format in EXACT_SEEK and f.frames != UNKNOWN_FRAMES:
                got = f.seek(first)
        while last is None or got < last:
            if self._cancelled():
                raise ClipError("cancelled", "the run was stopped")
            wanted = size if last is None else min(size, last - got)
            with _explained(clip):
                block = f.read(wanted, dtype="float32", always_2d=True)  # [T, channels]
            if not np.isfinite(block).all():
                where = got + int(np.flatnonzero(~np.isfinite(block).all(1))[0])
                raise ClipError("non-finite", f"sample {where} is not a finite number")
            part = block[max(0, first - got) :]
            got += len(block)
            if len(part):
                found = True
                yield _keep(part, self._channels)
            if len(block) < wanted:
                break
        if got == 0:
            raise ClipError("empty", "no samples")
        if last is not None and got < last:
            if f.frames == UNKNOWN_FRAMES:
                raise _beyond(clip, got / f.samplerate)
            raise ClipError("truncated", f"the header promises {f.frames} samples, {got} could be read")
        if not found:
            raise _beyond(clip, got / f.samplerate)


@contextmanager
def _explained(clip: Clip) -> Iterator[None]:
    """What libsndfile and soundfile say, as the clip's error."""
    try:
        yield
    except soundfile.LibsndfileError as e:
        raise _explain(e, clip) from e
    except (TypeError, ValueError) as e:  # soundfile on a format that needs more than the file, such as RAW
        raise ClipError("unsupported", f"not a format that can be read without being told about it: {e}") from e
    except MemoryError as e:
        raise ClipError("out-of-memory", "too large to be held in memory") from e


def _check_file(clip: Clip) -> None:
    if clip.fault is not None:
        raise ClipError(*clip.fault)
    try:
        info = os.stat(clip.path)
    except OSError as e:
        if os.path.islink(clip.path):
            raise ClipError("missing", f"a link to {os.readlink(clip.path)}, which cannot be reached") from e
        code = "missing" if isinstance(e, FileNotFoundError | NotADirectoryError) else "unreadable"
        raise ClipError(code, e.strerror or str(e)) from e
    except ValueError as e:  # a NUL in the path
        raise ClipError("missing", "not a path") from e
    if stat.S_ISDIR(info.st_mode):
        raise ClipError("unreadable", "a folder that cannot be listed")
    if not stat.S_ISREG(info.st_mode):
        raise ClipError("not-audio", "expected a file, found a device or a pipe")
    if info.st_size == 0:
        raise ClipError("empty", "the file has 0 bytes")
    if not os.access(clip.path, os.R_OK):
        raise ClipError("unreadable", "permission denied")
    if clip.span is not None:
        check_span(clip.span, info)


def _bounds(f: soundfile.SoundFile, clip: Clip) -> tuple[int, int | None]:
    """First sample of a clip and the one after its last (None: the file's end): the nearest to its times."""
    first = 0 if clip.start is None else round(clip.start * f.samplerate)
    stop = None if clip.end is None else round(clip.end * f.samplerate)
    if stop is not None and stop <= first:
        raise ClipError("bad-segment", f"expected at least one sample from {clip.start or 0:g} to {clip.end:g} s")
    if f.frames != UNKNOWN_FRAMES and max(first + 1, stop or 0) > f.frames:
        raise _beyond(clip, f.frames / f.samplerate)
    return first, stop


def _beyond(clip: Clip, seconds: float) -> ClipError:
    wanted = f"{clip.start or 0:.10g} s to {'its end' if clip.end is None else f'{clip.end:.10g} s'}"
    return ClipError("bad-segment", f"expected a segment within the file's {seconds:.10g} s, got {wanted}")


def _keep(block: np.ndarray, channels: str | int) -> np.ndarray:
    """The channels that the policy keeps: [T, channels] -> contiguous [kept, T]."""
    if channels == "mix":
        return block.mean(axis=1, dtype=np.float32)[None] if block.shape[1] > 1 else block.T
    if channels == "each":
        return np.ascontiguousarray(block.T)
    return np.ascontiguousarray(block[:, [0 if channels == "first" else int(channels)]].T)


def _explain(e: soundfile.LibsndfileError, clip: Clip) -> ClipError:
    reason = re.sub(r"^(Internal )?[Ee]rror ?: ", "", e.error_string.strip()).rstrip(".")
    if e.code == 1:  # SF_ERR_UNRECOGNISED_FORMAT
        if extension(clip.name) in UNREADABLE:
            return ClipError("unsupported", f"libsndfile does not read .{extension(clip.name)} files")
        return ClipError("not-audio", "not an audio file in a format that libsndfile knows")
    if e.code == 2:  # SF_ERR_SYSTEM: the file system's error, not the file's
        try:
            open(clip.path, "rb").close()
        except OSError as found:  # libsndfile does not say which
            if found.errno in OUT_OF_FILES:
                raise
            reason = found.strerror or reason
        return ClipError("unreadable", reason)
    return ClipError("corrupt", reason.replace("SF_INFO struct incomplete", "the header contradicts itself"))
