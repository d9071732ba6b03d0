"""What tests share: paths, and audio made by code, in many formats and broken in as many ways."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from hlfeat.audio import pyav

ROOT = Path(__file__).parent.parent
THOROUGH = os.environ.get("HLFEAT_TESTS") == "thorough"  # many more cases than CI has time for
GOLDEN = ROOT / "tests" / "golden"

KINDS = [
    ("wav", "WAV", "PCM_16"),
    ("flac", "FLAC", "PCM_16"),
    ("ogg", "OGG", "VORBIS"),
    ("WAV", "WAV", "FLOAT"),
    ("mp3", "MP3", "MPEG_LAYER_III"),
    ("aiff", "AIFF", "PCM_16"),
    ("w64", "W64", "PCM_24"),
    ("au", "AU", "PCM_16"),
    ("opus", "OGG", "OPUS"),
]
NAMES = ["plain", "with space", "ünï", "quote'd", "-dash", "тест", "#hash&amp", "dots.in.name", "new\nline"]


def tone(seconds: float, rate: int, freq: float = 440.0, seed: int = 0) -> np.ndarray:
    """A decaying tone with two harmonics and a little noise: float32 [T]."""
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(size=len(t)) * 0.003
    waves = sum(np.sin(2 * np.pi * freq * k * t) / k for k in (1, 2, 3))
    return (0.3 * waves * np.exp(-t) + noise).astype(np.float32)


def good_clips(folder: Path, n: int, longest: float = 2.5) -> Path:
    """`n` clips of different kinds below `folder`."""
    rates = [16000, 8000, 44100, 22050, 48000, 11025]
    for i in range(n):
        ext, fmt, sub = KINDS[i % len(KINDS)]
        rate = 48000 if sub == "OPUS" else rates[i % len(rates)]
        x = tone(0.05 + longest * ((i * 7) % n) / n, rate, 200 + 37 * i, i)
        if i % 3 == 2 and fmt != "MP3":
            x = np.stack([x, 0.5 * np.roll(x, 40)], 1)
        path = folder / f"d{i % 2}" / f"{NAMES[i % len(NAMES)]} {i}.{ext}"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, x, rate, format=fmt, subtype=sub)
    return folder


def broken_clips(folder: Path) -> dict[str, str]:
    """Files that are no usable audio below `folder`: name -> the code that is expected."""
    folder.mkdir(parents=True, exist_ok=True)
    x = tone(2, 16000)
    soundfile.write(folder / "t.wav", x, 16000)
    wav = (folder / "t.wav").read_bytes()
    codes: dict[str, str] = {}

    def put(name: str, code: str, data: bytes) -> None:
        (folder / name).write_bytes(data)
        codes[name] = code

    put("zero_bytes.wav", "empty", b"")
    put("text.wav", "not-audio", b"this is text\n" * 40)
    put("random.flac", "not-audio", np.random.default_rng(0).bytes(5000))
    put("header_only.wav", "truncated", wav[:44])
    put("no_samples.wav", "empty", wav[:40] + struct.pack("<I", 0))
    put("cut_header.wav", "corrupt", wav[:20])
    put("film.m4a", "truncated" if pyav.is_installed() else "unsupported", b"\0\0\0 ftypM4A " + bytes(500))
    lie = wav[:40] + struct.pack("<I", 0x7FFFFFF0) + wav[44:]
    put("lying_length.wav", "truncated", lie)
    put("rate_zero.wav", "corrupt", wav[:24] + struct.pack("<I", 0) + wav[28:])
    put("rate_one.wav", "bad-rate", wav[:24] + struct.pack("<I", 1) + wav[28:])
    for ext, fmt, sub in KINDS:
        path = folder / f"whole.{ext}"
        soundfile.write(path, tone(2, 48000), 48000, format=fmt, subtype=sub)
        data = path.read_bytes()
        path.unlink()
        put(f"cut_{sub}.{ext}", "corrupt" if fmt == "FLAC" else "truncated", data[: len(data) * 6 // 10 + 1])
        if fmt == "FLAC":
            middle = len(data) // 2
            flipped = bytes(b ^ 0x5A for b in data[middle : middle + 400])
            put("flipped.flac", "corrupt", data[:middle] + flipped + data[middle + 400 :])
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        bad = x.copy()
        bad[1000] = value
        soundfile.write(folder / f"{name}.wav", bad, 16000, subtype="FLOAT")
        codes[f"{name}.wav"] = "non-finite"
    loud = np.full(1000, 1e30, np.float32)
    soundfile.write(folder / "loud.wav", loud, 16000, subtype="FLOAT")
    codes["loud.wav"] = "non-finite"
    (folder / "dangling.wav").symlink_to("nowhere.wav")
    codes["dangling.wav"] = "missing"
    (folder / "folder.wav").mkdir()
    (folder / "t.wav").unlink()
    return codes


def eventually(condition: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether the condition holds before so much time has passed; of what other threads do."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()
