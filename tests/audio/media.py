"""Files of formats that soundfile does not write, made by PyAV; and what FFmpeg itself decodes of a file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import av
import numpy as np


class Media(NamedTuple):
    """A format: the file's extension, FFmpeg's names of the container and of the codec, and how to encode."""

    extension: str
    container: str
    codec: str
    rate: int = 44100
    channels: int = 2
    bit_rate: int | None = None


MEDIA = {
    "AAC in MP4": Media("m4a", "mp4", "aac"),
    "AAC in ADTS": Media("aac", "adts", "aac"),
    "ALAC in MP4": Media("m4a", "mp4", "alac"),
    "AAC in 3GP": Media("3gp", "3gp", "aac", 16000, 1),
    "Opus in WebM": Media("webm", "webm", "libopus", 48000),
    "AAC in Matroska": Media("mka", "matroska", "aac"),
    "FLAC in Matroska": Media("mka", "matroska", "flac"),
    "PCM in Matroska": Media("mkv", "matroska", "pcm_s16le"),
    "WMA": Media("wma", "asf", "wmav2", bit_rate=128000),
    "AC-3": Media("ac3", "ac3", "ac3", 48000),
    "E-AC-3": Media("eac3", "eac3", "eac3", 48000),
    "AMR-NB": Media("amr", "amr", "libopencore_amrnb", 8000, 1, 12200),
    "WavPack": Media("wv", "wv", "wavpack"),
    "TTA": Media("tta", "tta", "tta"),
    "FLAC in Ogg": Media("oga", "ogg", "flac"),
    "MP3 in AVI": Media("avi", "avi", "libmp3lame"),
    "AAC in a transport stream": Media("m2ts", "mpegts", "aac"),
    "WMA in WAV": Media("wav", "wav", "wmav2", bit_rate=128000),
    "AC-3 in WAV": Media("wav", "wav", "ac3", 48000),
    "MP2": Media("mp2", "mp2", "mp2"),
}


def encode(path: Path, kind: Media, samples: np.ndarray, options: dict[str, str] | None = None) -> Path:
    """Write samples [T, channels] in a format. `options`: the container's."""
    layout = {1: "mono", 2: "stereo"}[samples.shape[1]]
    with av.open(str(path), "w", format=kind.container, options=options or {}) as container:
        stream = container.add_stream(kind.codec, rate=kind.rate, layout=layout)
        if kind.bit_rate:
            stream.bit_rate = kind.bit_rate
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T, np.float32), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = kind.rate, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


def ffmpeg_samples(path: Path) -> np.ndarray:
    """What FFmpeg decodes of the first audio stream of a file, [T, channels]: all of it, whatever errors there are."""
    blocks = []
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler("flt")
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in frames:
                frame.pts = None
                blocks += [out.to_ndarray().reshape(-1, frame.layout.nb_channels) for out in resampler.resample(frame)]
        blocks += [out.to_ndarray().reshape(-1, out.layout.nb_channels) for out in resampler.resample(None)]
    return np.concatenate(blocks) if blocks else np.zeros((0, 1), np.float32)
