"""The decoder of what libsndfile does not read: FFmpeg's libraries, through PyAV (`pip install 'hlfeat[av]'`).

The samples are those of `ffmpeg -i FILE`: of the first audio stream, with the priming samples left out that the file
tells to leave out. FFmpeg opens nothing but the file: it gets a descriptor and a list of formats, as some formats are
scripts that name other files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from hlfeat.audio.byte_source import clip_size, open_bytes, sound_source
from hlfeat.audio.clip import Clip
from hlfeat.audio.containers import check_structure
from hlfeat.audio.decoder import TruncatedError
from hlfeat.errors import ClipError

if TYPE_CHECKING:
    import av

# Formats that hold audio, and no names of other files: no concat, hls, dash, sdp, image2 and their like.
FORMATS = (
    "aac,ac3,eac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,dtshd,flac,flv,iff,ircam,matroska,webm,mlp,mov,mp4,"
    "m4a,3gp,3g2,mj2,mp3,mpc,mpc8,mpeg,mpegts,nistsphere,ogg,oma,qcp,rm,rso,shn,sox,spdif,tak,truehd,tta,voc,w64,"
    "wav,wv,xwma"
)
# Of these, the ones whose header, or index, states a length that is no guess.
PROMISES = frozenset(
    {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "asf", "caf", "tta", "ape", "wv", "dsf", "tak", "mpc8"}
)
_AUDIO_SLACK, _VIDEO_SLACK = 0.1, 0.5  # seconds by which a file may end early: the container's clock is a coarse one
_CHECKED = frozenset({"ac3", "eac3"})  # codecs that conceal what is missing, unless they are told not to
_SCALES = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63, "flt": 1.0, "dbl": 1.0}


def is_installed() -> bool:
    """Whether PyAV is there."""
    try:
        import av  # noqa: F401
    except ImportError:
        return False
    return True


class AvDecoder:
    """A file that FFmpeg reads; a Decoder. Raises ClipError for a file that it does not read.

    Args:
        states_duration: whether the file's duration, as FFmpeg gives it, can be a promise.
        shortfall: see Decoder.
    """

    exact_seek = False

    def __init__(self, clip: Clip, states_duration: bool = True, shortfall: TruncatedError | None = None) -> None:
        import av

        self._break: ClipError | None = None  # what broke the stream
        self.name: str | None = f"av {'.'.join(av.__version__.split('.')[:2])}"
        self._clip, self._states_duration, self.shortfall = clip, states_duration, shortfall
        with ExitStack() as opened, _explained(clip):
            self._container = opened.enter_context(_open(clip))
            if not self._container.streams.audio:
                raise ClipError("not-audio", "no audio stream in the file")
            self._stream = self._container.streams.audio[0]
            if self._stream.codec_context is None:
                raise ClipError("unsupported", "FFmpeg has no decoder for the audio stream")
            self._stream.codec_context.thread_count = 1
            if self._stream.codec_context.name in _CHECKED:
                self._stream.codec_context.options = {"err_detect": "crccheck+explode"}
            self.sample_rate: int = self._stream.codec_context.sample_rate
            self.channels: int = self._stream.codec_context.channels
            if not self.sample_rate or not self.channels:
                raise ClipError("corrupt", "the header contradicts itself")
            self.length: int | None = None
            self._seconds = 0.0  # where the last packet of any stream ends
            self._blocks = self._decode()
            # the first samples: a codec may be known by name, and not be read
            self._held = next(self._blocks, np.zeros((0, self.channels), np.float32))
            self._opened = opened.pop_all()

    def read(self, samples: int) -> np.ndarray:
        if self._break is not None:
            raise self._break
        parts, size = [self._held], len(self._held)
        while size < samples:
            try:
                with _explained(self._clip):
                    block = next(self._blocks, None)
            except ClipError as e:
                self._break, block = e, None
                if not size:
                    raise
            if block is None:
                break
            parts.append(block)
            size += len(block)
        y = np.concatenate(parts) if len(parts) > 1 else parts[0]
        self._held = y[samples:]
        return y[:samples]

    def _decode(self) -> Iterator[np.ndarray]:
        """The samples of the audio stream: float32 [n, channels] each."""
        import av

        smallest = 0  # bytes of a frame, of formats whose frames are of one size
        begun = False
        for packet in self._container.demux():
            if packet.pts is not None and packet.time_base is not None:
                self._seconds = max(self._seconds, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != self._stream.index:
                continue
            if self._container.format.name in _CHECKED and 0 < packet.size < smallest - 4:
                raise TruncatedError("the file ends within a frame")
            smallest = packet.size or smallest
            try:
                frames = packet.decode()
            except av.error.InvalidDataError as e:
                is_cut = begun or packet.is_corrupt  # which says that FFmpeg could not read all of it
                if not is_cut or any(later.size for later in self._container.demux(self._stream)):
                    raise
                raise TruncatedError("the file ends within a frame") from e
            for frame in frames:
                begun = True
                yield self._samples(frame)

    def _samples(self, frame: Any) -> np.ndarray:
        if frame.sample_rate != self.sample_rate or frame.layout.nb_channels != self.channels:
            raise ClipError("unsupported", "the sample rate or the number of channels changes within the file")
        y = frame.to_ndarray()  # [channels, n], or [1, n * channels] where samples are interleaved
        y = y.T if frame.format.is_planar else y.reshape(-1, self.channels)
        kind = frame.format.packed.name
        if kind == "u8":
            y = y.astype(np.float32) - _SCALES["u8"]
        scaled: np.ndarray = y if _SCALES[kind] == 1 else y / np.float64(_SCALES[kind])
        return scaled.astype(np.float32)

    def seek(self, sample: int) -> None:
        raise NotImplementedError("FFmpeg's seeks are not exact")

    def check_end(self, samples: int) -> None:
        """Compares with the container's duration, where that is a promise."""
        if self._break is not None:
            raise self._break
        is_promise = self._states_duration and self._container.format.name in PROMISES
        if not is_promise or self._container.duration is None:
            return
        promised = float(self._container.duration) / 1e6
        if self._stream.duration is not None and self._stream.time_base is not None:
            promised = float(self._stream.duration * self._stream.time_base)
            there = samples / self.sample_rate
        else:  # of all streams together
            start = float(self._container.start_time or 0) / 1e6
            there = max(samples / self.sample_rate, self._seconds - start)
        slack = _VIDEO_SLACK if self._container.streams.video else _AUDIO_SLACK
        if there < promised - slack:
            raise TruncatedError(f"the header promises {promised:.2f} s, {there:.2f} s are there", promised)

    def close(self) -> None:
        self._opened.close()


@contextmanager
def _open(clip: Clip) -> Iterator[av.container.InputContainer]:
    import av

    options = {"format_whitelist": FORMATS}
    with ExitStack() as opened:
        source = opened.enter_context(sound_source(clip))
        if isinstance(source, bytes):
            source = opened.enter_context(open_bytes(clip)).fileno()
        if isinstance(source, int):  # by its descriptor: FFmpeg then takes no path for a URL, and reads by itself
            container: Any = av.open("fd:", options={**options, "fd": str(source)}, metadata_errors="replace")
        else:
            container = av.open(source, options=options, metadata_errors="replace")
        yield opened.enter_context(container)


@contextmanager
def _explained(clip: Clip) -> Iterator[None]:
    """What FFmpeg says, as the clip's error."""
    import av

    try:
        yield
    except av.error.InvalidDataError as e:
        raise ClipError("corrupt", f"FFmpeg cannot decode it: {e.strerror}") from e
    except (av.error.DecoderNotFoundError, av.error.PatchWelcomeError, av.error.DemuxerNotFoundError) as e:
        raise ClipError("unsupported", f"FFmpeg does not read it: {e.strerror}") from e
    except av.error.FFmpegError as e:
        raise ClipError("corrupt", f"FFmpeg cannot read it: {e.strerror}") from e
    except MemoryError as e:
        raise ClipError("out-of-memory", "too large to be held in memory") from e


def open_decoder(clip: Clip, before: ClipError) -> AvDecoder:
    """FFmpeg's decoder of a clip. `before`: why libsndfile does not read it.

    Raises ClipError: with the code of `before` for what FFmpeg cannot read either.
    """
    cut: TruncatedError | None = None
    states_duration = True
    with open_bytes(clip) as file:
        try:
            states_duration = check_structure(file, clip_size(clip))
        except TruncatedError as e:
            cut = e
    try:
        return AvDecoder(clip, states_duration, cut)
    except ClipError as e:
        if cut is not None:
            raise cut from e
        if e.code != "corrupt":
            raise
        message = f"{before}; {e}" if before.code == "unsupported" else str(before)
        raise ClipError(before.code, message) from e
