"""The decoder of most formats: libsndfile, through soundfile, and what it leaves out.

libsndfile is forgiving where a run must not be: a file that was cut short often reads as a shorter file, a guessed
length as the whole. What it noticed on the way is in its log; what it does not notice is read from the file itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
import soundfile

from hlfeat.audio.byte_source import byte_range, clip_size, open_bytes, piped, sound_source
from hlfeat.audio.clip import Clip
from hlfeat.audio.containers import check_structure
from hlfeat.audio.decoder import TruncatedError
from hlfeat.audio.flac import counted_samples
from hlfeat.audio.formats import EXACT_SEEK, UNKNOWN_FRAMES, UNREADABLE, extension
from hlfeat.audio.leftovers import leftover_bytes
from hlfeat.audio.mpeg import scan_mpeg
from hlfeat.audio.ogg import OggFile, scan_ogg
from hlfeat.audio.riff import WavFile, scan_wav
from hlfeat.errors import OUT_OF_FILES, ClipError

# Lines of libsndfile's log about a chunk of samples that promises more bytes than the file has, such as
# "data : 2147483632 (should be 64000)" (W64); SSND is AIFF's, BODY is SVX's, Data Size is AU's.
_PROMISE = re.compile(r"^\s*(?:data|SSND|BODY|Data Size|riff)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
_SHORT = re.compile(r"truncated file|seems to be truncated|frame count \d+ does not match value from 'ds64'")
_UNSTATED = frozenset({0xFFFFFFFF, 0x7F000008})  # sizes of streams whose writers did not know them (SoX: AIFF)

# Formats where it notes what the header says, and takes what is there without another word (NIST: the header itself).
_HEADER_FRAMES = {
    "AVR": re.compile(r"^\s*Frames\s*: (\d+)", re.MULTILINE),
    "CAF": re.compile(r"Bytes / packet\s*: (\d+)\n\s*Frames / packet\s*: 1\n(?:.*\n)*?data : (\d+)\n"),
    "MAT5": re.compile(r"Cols : (\d+)\n.*\n.*Name : wavedata"),
    "NIST": re.compile(r"sample_count -i (\d+)"),
    "SDS": re.compile(r"^Frames\s*: (\d+)", re.MULTILINE),
}
_CAF_VALID = re.compile(r"^\s*Valid frames\s*: (\d+)", re.MULTILINE)  # of CAF's packets, such as those of ALAC
_STEP = 1024  # samples read at once, to find where a stream breaks
_SLACK = 2  # MPEG frames that a decoder may leave out: they lean on bytes of frames that are not there

# errors of libsndfile: no format that it knows; the file system's; MPEG audio that is none; and files that are well
# made, in an encoding that it does not read
_NOT_KNOWN, _SYSTEM, _NOT_MPEG = 1, 2, 7
_UNIMPLEMENTED = frozenset({4, 18, 92, 100, 106, 110, 112, 117, 123})


class _Stream(soundfile.SoundFile):  # type: ignore[misc]
    """Reads from start to end only: soundfile's own seeks fail on a FLAC that does not state its length."""

    def seekable(self) -> bool:
        return False


class SndfileDecoder:
    """A file that libsndfile reads; a Decoder.

    Args:
        salvage: read what follows the samples that the header counts, where the header was never finished.

    Raises ClipError for a file that libsndfile does not read ("unsupported", "not-audio"), or that is damaged.
    """

    name: str | None = None

    def __init__(self, clip: Clip, salvage: bool = False) -> None:
        self._clip, self._salvage = clip, salvage
        self._position = 0  # samples read
        self._break: ClipError | None = None  # what broke the stream
        self.shortfall: TruncatedError | None = None
        self._left: int | None = None  # samples that are there, where libsndfile would go on with zeros
        self._least = 0  # samples that a stream without a promise must give
        with ExitStack() as opened:
            size = clip_size(clip)
            with open_bytes(clip) as file:
                wav, ogg = scan_wav(file, size), scan_ogg(file, size)
                more, flac = leftover_bytes(file, size), counted_samples(file, size)
            if ogg is not None:
                _check_ogg(ogg)
            with _explained(clip, wav, ogg):
                self._file = self._open(opened, wav, ogg, salvage)
                if self._file.format == "MP3" or (wav is not None and wav.mpeg):
                    self._file = self._open_mpeg(opened, wav, size)
            self.sample_rate: int = self._file.samplerate
            self.channels: int = self._file.channels
            self.length: int | None = None if self._file.frames == UNKNOWN_FRAMES else self._file.frames
            self._format: str = self._file.format
            self.exact_seek = self._format in EXACT_SEEK and self.length is not None
            if wav is not None:
                self._check_wav(wav)
            elif ogg is not None:
                self._check_ogg_end(ogg)
            elif self._format != "MP3":
                self._check_log()
                self._check_rest(more, flac)
            self._opened = opened.pop_all()

    def _open(self, opened: ExitStack, wav: WavFile | None, ogg: OggFile | None, salvage: bool) -> _Stream:
        if wav is not None and wav.subtype is not None:
            unfinished = wav.length == "unknown" and wav.stated == 0
            if unfinished or wav.length == "wrapped" or (wav.length == "stale" and salvage):
                return self._open_raw(opened, wav)
        if ogg is not None and not ogg.ended:  # its length would be a guess
            return self._enter(opened, opened.enter_context(piped(self._clip)))
        return self._enter(opened, opened.enter_context(sound_source(self._clip)))

    @staticmethod
    def _enter(opened: ExitStack, source: object) -> _Stream:
        stream: _Stream = opened.enter_context(_Stream(source, closefd=False))
        return stream

    def _open_raw(self, opened: ExitStack, wav: WavFile) -> _Stream:
        """The samples of a WAV file to where they really end."""
        samples = opened.enter_context(byte_range(self._clip, wav.start, wav.end - (wav.end - wav.start) % wav.block))
        stream: _Stream = opened.enter_context(
            _Stream(
                samples,
                format="RAW",
                subtype=wav.subtype,
                endian="BIG" if wav.big_endian else "LITTLE",
                samplerate=wav.sample_rate,
                channels=wav.channels,
            )
        )
        return stream

    def _open_mpeg(self, opened: ExitStack, wav: WavFile | None, size: int) -> _Stream:
        """MPEG audio to its last frame: through a pipe, as libsndfile trusts a guess where it knows the file's size.

        A tag's count of frames is corrected on the way; without a tag, no length is known.
        """
        with open_bytes(self._clip) as file:
            start, end = (0, size) if wav is None else (wav.start, wav.end)
            stream = scan_mpeg(file, start, end)
        if stream is None:
            raise ClipError("not-audio", "no frames of MPEG audio")
        if stream.lost is not None:
            raise ClipError("corrupt", f"bytes at {stream.lost:.2f} s are no frames of MPEG audio")
        frames, second = stream.frames, stream.sample_rate / stream.samples_per_frame
        if stream.changes:
            raise ClipError("unsupported", f"MPEG audio that changes its sample rate at {frames / second:.2f} s")
        if stream.promised is not None and stream.promised > frames + 1:
            message = f"the header promises {stream.promised} frames, {frames} are there ({frames / second:.2f} s)"
            self.shortfall = TruncatedError(message, stream.promised / second)
        elif stream.cut:
            self.shortfall = TruncatedError(f"the file ends within a frame, after {frames / second:.2f} s")
        patch = None
        if stream.count_offset is not None and stream.promised != frames:
            patch = stream.count_offset, frames.to_bytes(4, "big")
        elif stream.count_offset is None:
            self._least = (frames - _SLACK) * stream.samples_per_frame
        self._file.close()
        return self._enter(opened, opened.enter_context(piped(self._clip, patch, stream.end)))

    def _check_wav(self, wav: WavFile) -> None:
        if wav.mpeg:
            return
        if wav.exact_samples is not None:
            self.length = wav.exact_samples
        there = wav.end - wav.start
        if wav.length == "cut":
            message = f"the header promises {wav.stated} bytes of audio, {there} are there"
            self.shortfall = TruncatedError(message, self._seconds_of(wav.stated, there))
        elif wav.length == "stale":
            more = there - wav.stated
            message = f"the header counts {wav.stated} bytes of audio, {more} more follow that are no chunk"
            self.shortfall = TruncatedError(message, self._seconds_of(wav.stated, there))
        elif wav.length == "wrapped" and wav.subtype is None:
            self.shortfall = TruncatedError(f"the header counts {wav.stated} bytes of audio, and there are more")
        elif wav.length == "unknown" and wav.stated == 0 and wav.subtype is None:
            self.shortfall = TruncatedError("the header was never finished: it counts no audio, but some follows")

    def _seconds_of(self, size: int, there: int) -> float | None:
        """How long so many bytes of samples last, if those that are there are as long as libsndfile says."""
        return self.length * size / there / self.sample_rate if self.length and there else None

    def _check_ogg_end(self, ogg: OggFile) -> None:
        if ogg.fault == "cut":
            self.shortfall = TruncatedError("the file ends within a page of the Ogg stream")

    def _check_log(self) -> None:
        """What libsndfile has noted about the header."""
        log = self._file.extra_info
        for promised, there in _PROMISE.findall(log):
            if int(promised) > int(there) and int(promised) not in _UNSTATED:
                message = f"the header promises {promised} bytes of audio, {there} are there"
                self.shortfall = TruncatedError(message, self._seconds_of(int(promised), int(there)))
        if _SHORT.search(log):
            self.shortfall = TruncatedError("the file ends before the length that its header gives")
        promised, there = self._header_frames(log)
        if promised > there:
            message = f"the header promises {promised} samples, {there} are there"
            self.shortfall = TruncatedError(message, promised / self.sample_rate)
            self._left = there

    def _check_rest(self, more: int, flac: tuple[int, int] | None) -> None:
        """What libsndfile does not read: bytes after the samples that the header counts, and samples of FLAC."""
        if flac is not None and flac[0] < flac[1]:
            message = f"the header counts {flac[0]} samples, but they go on to {flac[1]}"
            self.shortfall = TruncatedError(message, flac[1] / self.sample_rate)
        if more:
            self.shortfall = TruncatedError(f"{more} bytes follow the audio that the header counts, and are no chunk")

    def _header_frames(self, log: str) -> tuple[int, int]:
        """Samples that the header promises, and that are there, where libsndfile takes one for the other."""
        text, promised, there = log, self._file.frames, self._file.frames
        if self._format == "NIST":
            with open_bytes(self._clip) as header:
                text = header.read(1024).decode("ascii", errors="replace")
        noted = _HEADER_FRAMES[self._format].search(text) if self._format in _HEADER_FRAMES else None
        if noted and self._format == "SDS":  # the other way round: what is noted is there
            there = int(noted[1])
        elif noted and self._format == "CAF":
            promised = (int(noted[2]) - 4) // int(noted[1])  # bytes, with those of the edit count, by those of a frame
        elif noted:
            promised = int(noted[1])
        elif self._format == "CAF" and (valid := _CAF_VALID.search(text)):
            promised = int(valid[1])
        return promised, there

    def read(self, samples: int) -> np.ndarray:
        if self._break is not None:
            raise self._break
        if self._left is not None:
            samples = min(samples, self._left)
        try:
            with _explained(self._clip):
                block: np.ndarray = self._file.read(samples, dtype="float32", always_2d=True)
        except ClipError as e:
            self._break = e
            block = self._read_to_break(samples)
            if not len(block):
                raise
        if self._left is not None:
            self._left -= len(block)
        self._position += len(block)
        return block

    def _read_to_break(self, samples: int) -> np.ndarray:
        """What can be read before the stream breaks: soundfile gives nothing of a block in which it does."""
        blocks = [np.zeros((0, self.channels), np.float32)]
        again = SndfileDecoder(self._clip, self._salvage)
        try:
            with suppress(ClipError):
                for start in range(0, self._position, _STEP):
                    again._file.read(min(_STEP, self._position - start), always_2d=True)
                for _ in range(0, samples, _STEP):
                    with _explained(self._clip):
                        blocks.append(again._file.read(_STEP, dtype="float32", always_2d=True))
        finally:
            again.close()
        return np.concatenate(blocks)[: samples - 1]  # not all of them: that would be no break

    def seek(self, sample: int) -> None:
        self._left = None if self._left is None else max(0, self._left + self._file.tell() - sample)
        with _explained(self._clip):
            self._file.seek(sample)
        self._position = sample

    def check_end(self, samples: int) -> None:
        if self._break is not None:
            raise self._break
        if self.length is not None and samples < self.length:
            message = f"the header promises {self.length} samples, {samples} could be read"
            raise TruncatedError(message, self.length / self.sample_rate)
        if samples < self._least:
            raise ClipError("corrupt", f"{samples} samples could be read, {self._least} at least were expected")

    def close(self) -> None:
        self._opened.close()


def _check_ogg(ogg: OggFile) -> None:
    """Raises ClipError for what libsndfile does not read, or not to its end."""
    audio = [codec for codec in ogg.codecs if codec not in ("Theora", "Skeleton")]
    if ogg.chained:
        raise ClipError("unsupported", "chained Ogg: several streams, one after the other")
    if len(ogg.codecs) != 1 or audio[0] not in ("Vorbis", "Opus"):
        raise ClipError("unsupported", f"Ogg with {' and '.join(ogg.codecs)}")
    if ogg.fault == "gap":
        raise ClipError("corrupt", "pages of the Ogg stream are missing or damaged")


@contextmanager
def _explained(clip: Clip, wav: WavFile | None = None, ogg: OggFile | None = None) -> Iterator[None]:
    """What libsndfile and soundfile say, as the clip's error."""
    try:
        yield
    except soundfile.LibsndfileError as e:
        raise _explain(e, clip, wav, ogg) from e
    except (TypeError, ValueError) as e:  # soundfile on a format that needs more than the file, such as RAW
        raise ClipError("unsupported", f"not a format that can be read without being told about it: {e}") from e
    except MemoryError as e:
        raise ClipError("out-of-memory", "too large to be held in memory") from e


def _explain(e: soundfile.LibsndfileError, clip: Clip, wav: WavFile | None, ogg: OggFile | None) -> ClipError:
    reason = re.sub(r"^(Internal )?[Ee]rror ?: ", "", e.error_string.strip()).rstrip(".")
    if e.code in (_NOT_KNOWN, _NOT_MPEG):
        if extension(clip.name) in UNREADABLE and not _is_text(clip):
            return ClipError("unsupported", f"libsndfile does not read .{extension(clip.name)} files")
        return ClipError("not-audio", "not an audio file in a format that libsndfile knows")
    if e.code == _SYSTEM:  # the file system's error, not the file's
        try:
            open(clip.file, "rb").close()
        except OSError as error:  # libsndfile does not say which
            if error.errno in OUT_OF_FILES:
                raise
            reason = error.strerror or reason
        return ClipError("unreadable", reason)
    if wav is not None and wav.subtype is None and wav.foreign:
        return ClipError("unsupported", f"WAV with {wav.codec}")
    if ogg is not None and ogg.fault is None:  # such as one that was cut out of another
        return ClipError("unsupported", f"an Ogg stream that libsndfile cannot open: {reason}")
    if e.code in _UNIMPLEMENTED:
        return ClipError("unsupported", reason)
    try:
        with open_bytes(clip) as file:
            if not check_structure(file, clip_size(clip)):
                return ClipError("unsupported", "libsndfile does not read it without a length in its header")
    except TruncatedError as cut:
        return cut
    return ClipError("corrupt", reason.replace("SF_INFO struct incomplete", "the header contradicts itself"))


def _is_text(clip: Clip) -> bool:
    """Whether a file begins like text, such as an error page of a web server, or is empty space."""
    with open_bytes(clip) as file:
        head = file.read(512)
    return not head.strip(b"\0") or all(byte in b"\t\n\r\f" or (byte >= 0x20 and byte != 0x7F) for byte in head)
