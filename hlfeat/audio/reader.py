"""A clip's file to its samples, or the reason why not. Nothing is guessed, nothing shortened silently.

libsndfile reads most formats, FFmpeg (through PyAV, if it is installed) those that libsndfile does not. What counts is
what decodes, to the last byte of the file; what cannot be accounted for is a failure.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hlfeat.audio import pyav
from hlfeat.audio.byte_source import check_span
from hlfeat.audio.clip import Clip
from hlfeat.audio.copies import Stamp
from hlfeat.audio.decoder import Decoder, TruncatedError
from hlfeat.audio.formats import MAX_RATE, MIN_RATE
from hlfeat.audio.passes import OpenFile, SharedPasses
from hlfeat.audio.sndfile import SndfileDecoder
from hlfeat.audio.table_fetcher import read_row
from hlfeat.errors import ClipError

BLOCK_SAMPLES = 1 << 20  # samples of all channels read at once
MAX_OVERSHOOT = 0.5  # seconds by which a segment may end after its file: it is cut to the file's end, as Kaldi does


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


class Shortfall(NamedTuple):
    """What is missing of a clip that is used nevertheless: seconds that the file promises (None: it does not say), and
    seconds that are there."""

    promised: float | None
    there: float


Around = Callable[[int, int], tuple[int, int]]


def decode(clip: Clip, channels: str | int = "mix", cancelled: Callable[[], bool] = lambda: False) -> Waveform:
    """Read a clip whole. Arguments and errors are those of Reader."""
    samples, reader = decode_with_margins(clip, channels, None, cancelled)
    return Waveform(samples, reader.sample_rate, reader.file_channels)


def decode_with_margins(
    clip: Clip, channels: str | int, around: Around | None, cancelled: Callable[[], bool] = lambda: False
) -> tuple[np.ndarray, Reader]:
    """Read a clip whole, and what is read around a segment; what was read of it says the reader, which is closed.

    Arguments and errors are those of Reader.

    Shape: -> float32 [kept, before + T + after].
    """
    with Reader(clip, channels, cancelled, around=around) as reader:
        blocks = list(reader.blocks())
    return np.concatenate(blocks, axis=1) if len(blocks) > 1 else blocks[0], reader


class Reader:
    """An open clip: what its header says, and its samples in blocks.

    Args:
        clip: what to read.
        channels: "mix" (their mean), "first", "each" (all of them), or the number of one, from 0. A clip's own channel
            goes before it.
        cancelled: asked between blocks; when true, reading ends with a ClipError "cancelled".
        keep_truncated: use what is there of a recording that was cut short or never finished.
        passes: open files that neighbouring segments share; only for a reader that is read at once.
        around: how many samples are read before and after a segment, by the file's rate and the segment's first sample.
            Before it, there are as many, with zeros in front of the file; after it, as many as the file has.

    Attributes:
        stamp: size in bytes and modification time in nanoseconds since 1970 (None: not known) of the file, from before
            it was opened; of a copy, those of the original.
        sample_rate: hertz.
        file_channels: channels of the file; kept: of these, what the policy keeps.
        first: sample of the file with which the clip begins.
        samples: of the clip, as the header promises; None where it does not, or is not to be believed.
        before, after: samples that are read around a segment; `after` is known once the samples have been read, if
            `samples` is None.
        decoder: what reads the file, if it is not libsndfile.
        overshoots: whether the segment ends a little after its file.
        shortfall: what is missing at the end, once the samples have been read.

    Raises:
        ClipError: with one of the codes missing, unreadable, not-audio, unsupported, empty, truncated, corrupt,
            non-finite, bad-row, bad-channel, bad-rate, bad-segment, out-of-memory, cancelled.
        OSError: no more files can be opened, which is no clip's fault.
    """

    def __init__(
        self,
        clip: Clip,
        channels: str | int = "mix",
        cancelled: Callable[[], bool] = lambda: False,
        keep_truncated: bool = False,
        passes: SharedPasses | None = None,
        around: Around | None = None,
    ) -> None:
        if clip.row is not None and clip.copy is None and clip.fault is None:
            clip = read_row(clip)
        self.clip, self._cancelled, self._keep = clip, cancelled, keep_truncated
        self._channels = channels if clip.channel is None else clip.channel
        self._passes, self._around = passes, around
        self.stamp = _check_file(clip)
        self._file = self._open()
        decoder = self._file.decoder
        self.overshoots = False
        self.shortfall: Shortfall | None = None
        self.decoder, self.sample_rate, self.file_channels = decoder.name, decoder.sample_rate, decoder.channels
        try:
            self._check()
            self.first, self._stop = self._bounds()
        except ClipError:
            self._file.close()
            raise
        self.kept = self.file_channels if self._channels == "each" else 1
        end = decoder.length if self._stop is None else self._stop
        believed = end is not None and decoder.length is not None and not keep_truncated
        self.samples: int | None = end - self.first if end is not None and believed else None
        self.before, most = self._to_read(self.sample_rate, self.first)
        # the sample after the last one that is read: never beyond a promised end, as decoders stumble over what may
        # follow there, such as a tag
        self._last = decoder.length if self._stop is None and not keep_truncated else self._stop
        if self._stop is not None:
            self._last = self._stop + most
            if decoder.length is not None and not keep_truncated:
                self._last = min(self._last, decoder.length)
        self.after = self._last - self._stop if self._last is not None and self._stop is not None else 0

    def _to_read(self, rate: int, first: int) -> tuple[int, int]:
        return (0, 0) if self._around is None else self._around(rate, first)

    def _open(self) -> OpenFile:
        """The file, at the clip's start or before it."""
        waiting = None if self._passes is None else self._passes.take(self.clip)
        if waiting is not None:
            rate = waiting.decoder.sample_rate
            first = round((self.clip.start or 0) * rate)
            begin = max(0, first - self._to_read(rate, first)[0])
            if waiting.stamp == self.stamp and waiting.can_reach(begin):  # else the index would not know of the change
                return waiting
            waiting.close()
        return OpenFile(open_decoder(self.clip, self._keep), self.stamp)

    def _check(self) -> None:
        """Raises ClipError for what the header alone rules out."""
        decoder = self._file.decoder
        if not MIN_RATE <= self.sample_rate <= MAX_RATE:
            raise ClipError(
                "bad-rate", f"expected a sample rate of {MIN_RATE} to {MAX_RATE} Hz, got {self.sample_rate}"
            )
        if isinstance(self._channels, int) and self._channels >= self.file_channels:
            message = f"expected a channel {self._channels} (counting from 0), got {self.file_channels} channels"
            raise ClipError("bad-channel", message)
        if decoder.shortfall is not None and not self._keep:
            raise decoder.shortfall
        if decoder.length == 0:
            raise decoder.shortfall or ClipError("empty", "no samples")

    def _bounds(self) -> tuple[int, int | None]:
        """First sample of a clip and the one after its last (None: the file's end): the nearest to its times."""
        clip, rate, length = self.clip, self.sample_rate, self._file.decoder.length
        first = 0 if clip.start is None else round(clip.start * rate)
        stop = None if clip.end is None else round(clip.end * rate)
        if stop is not None and stop <= first:
            raise ClipError("bad-segment", f"expected at least one sample from {clip.start or 0:g} to {clip.end:g} s")
        if length is not None and not self._keep:
            if first >= length:
                raise self._beyond(length)
            if stop is not None and stop > length:
                stop = self._cut_overshoot(stop, length)
        return first, stop

    def _cut_overshoot(self, stop: int, length: int) -> int:
        if stop - length > MAX_OVERSHOOT * self.sample_rate:
            raise self._beyond(length)
        self.overshoots = True
        return length

    def _beyond(self, length: int) -> ClipError:
        end = "its end" if self.clip.end is None else f"{self.clip.end:.10g} s"
        wanted = f"{self.clip.start or 0:.10g} s to {end}"
        seconds = length / self.sample_rate
        return ClipError("bad-segment", f"expected a segment within the file's {seconds:.10g} s, got {wanted}")

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._passes is not None and exception[0] is None:
            self._passes.give_back(self.clip, self._file)
        else:
            self._file.close()

    def blocks(self) -> Iterator[np.ndarray]:
        """The samples from start to end, with those around a segment, once: float32 [kept, T] each, T from 1 up.

        A header's length is a promise, not a fact: it is checked at the end.
        """
        begin = max(0, self.first - self.before)
        if self.first - begin < self.before:
            yield np.zeros((self.kept, self.before - (self.first - begin)), np.float32)
        yield from self._blocks_from(begin)
        if self._stop is not None:
            self.after = max(0, self._file.position - self._stop)

    def _blocks_from(self, begin: int) -> Iterator[np.ndarray]:
        file, last = self._file, self._last
        size = max(1, BLOCK_SAMPLES // self.file_channels)
        file.go_to(begin)
        while last is None or file.position < last:
            if self._cancelled():
                raise ClipError("cancelled", "the run was stopped")
            wanted = size if last is None else min(size, last - file.position)
            start = file.position
            try:
                block = file.read(wanted)  # [T, channels]
            except ClipError as e:
                self._use_what_is_there(e)
                return
            self._check_finite(block, start)
            part = block[max(0, begin - start) :]
            if len(part):
                yield _keep(part, self._channels)
            if file.ended:
                try:
                    self._check_end()
                except ClipError as e:
                    self._use_what_is_there(e)
                    return
                break
        if file.position <= self.first:
            raise ClipError("empty", "no samples") if file.position == 0 else self._beyond(file.position)
        if file.ended and file.decoder.shortfall is not None:
            self._note_shortfall(file.decoder.shortfall)

    def _check_end(self) -> None:
        """The file has ended: is that all of it, and of the segment?"""
        file = self._file
        if not self._keep or file.decoder.shortfall is None:
            file.decoder.check_end(file.position)
        if file.position == 0:
            raise ClipError("empty", "no samples")
        if self._stop is not None and self.first < file.position < self._stop:
            self._cut_overshoot(self._stop, file.position)

    def _check_finite(self, block: np.ndarray, start: int) -> None:
        if not np.isfinite(block).all():
            where = start + int(np.flatnonzero(~np.isfinite(block).all(1))[0])
            outside = where < self.first or (self._stop is not None and where >= self._stop)
            place = ", outside of the segment" if outside and self._around is not None else ""
            raise ClipError("non-finite", f"sample {where} is not a finite number{place}")

    def _use_what_is_there(self, error: ClipError) -> None:
        """Go on with the samples so far, if that is wanted; else raise the error, with the time of the break."""
        if self._keep and self._file.position > self.first and error.code in ("truncated", "corrupt"):
            self._note_shortfall(error)
            return
        if self._file.position and error.code == "corrupt":
            seconds = self._file.position / self.sample_rate
            raise ClipError(error.code, f"{error}, after {seconds:.2f} s") from error
        raise error

    def _note_shortfall(self, error: ClipError) -> None:
        length, end = self._file.decoder.length, self._file.position
        if self._stop is not None and end >= self._stop:  # nothing is missing of the segment, only around it
            return
        promised = error.promised if isinstance(error, TruncatedError) else None
        if promised is None and length is not None and length > end:
            promised = length / self.sample_rate
        self.shortfall = Shortfall(promised, (end - self.first) / self.sample_rate)


def open_decoder(clip: Clip, salvage: bool = False) -> Decoder:
    """The first decoder that reads the clip: libsndfile's, then PyAV's. The arguments and errors are theirs."""
    try:
        return SndfileDecoder(clip, salvage)
    except ClipError as e:
        if e.code not in ("unsupported", "not-audio") and not (salvage and e.code == "truncated"):
            raise
        if not pyav.is_installed():
            more = "; pip install 'hlfeat[av]' reads more formats" if e.code == "unsupported" else ""
            raise ClipError(e.code, f"{e}{more}") from e
        return pyav.open_decoder(clip, e)


def _check_file(clip: Clip) -> Stamp:
    """Size and modification time of the file. Raises ClipError where what the file system says rules it out."""
    if clip.fault is not None:
        raise ClipError(*clip.fault)
    try:
        info = os.stat(clip.file)
    except OSError as e:
        if os.path.islink(clip.file):
            raise ClipError("missing", f"a link to {os.readlink(clip.file)}, which cannot be reached") from e
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
    if not os.access(clip.file, os.R_OK):
        raise ClipError("unreadable", "permission denied")
    if clip.range is not None:
        check_span(clip.range, info)
    return (info.st_size, info.st_mtime_ns) if clip.copy is None else clip.copy.stamp


def _keep(block: np.ndarray, channels: str | int) -> np.ndarray:
    """The channels that the policy keeps: [T, channels] -> contiguous [kept, T]."""
    if channels == "mix":
        return block.mean(axis=1, dtype=np.float32)[None] if block.shape[1] > 1 else block.T
    if channels == "each":
        return np.ascontiguousarray(block.T)
    return np.ascontiguousarray(block[:, [0 if channels == "first" else int(channels)]].T)
