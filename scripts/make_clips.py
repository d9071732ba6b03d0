#!/usr/bin/env python3
"""Made-up recordings for measuring: FLAC, 16 kHz, harmonics that glide in noise that comes and goes.

    scripts/make_clips.py FOLDER [--hours 4] [--seconds 10]

As much of a decoder's work as speech is, and never the same clip twice in a row. The same files every time. Clips have
2 to 20 s, or all of them the same length.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000
DIFFERENT = 200  # clips; there are more names than that, linked to the same data


def length_of(seed: int) -> float:
    """Seconds of a clip, where they differ."""
    return np.random.default_rng(seed).uniform(2, 20)


def clip(seed: int, seconds: float) -> np.ndarray:
    """About what a sentence looks like to a codec: [T], 16-bit."""
    rng = np.random.default_rng(seed)
    rng.uniform(2, 20)  # the length
    t = np.arange(int(RATE * seconds)) / RATE
    f0 = 150 + 60 * np.sin(2 * np.pi * rng.uniform(0.2, 0.6) * t)
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 20))
    syllables = np.clip(np.sin(2 * np.pi * rng.uniform(2, 4) * t), 0, None)
    x = 0.1 * syllables * voice + 0.02 * (1 - syllables) * rng.normal(size=len(t)) + 0.001 * rng.normal(size=len(t))
    return np.round(np.clip(x, -1, 1) * 32767).astype(np.int16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hours", type=float, default=4.0, help="of all clips together, at least")
    parser.add_argument("--seconds", type=float, help="of each clip; default: 2 to 20")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    seconds = [args.seconds or length_of(n) for n in range(DIFFERENT)]
    number, made = 0, 0.0
    while made < args.hours * 3600:
        made, number = made + seconds[number % DIFFERENT], number + 1

    def path(n: int) -> Path:
        return args.folder / f"{n:06d}.flac"

    def write(n: int) -> None:
        soundfile.write(path(n), clip(n, seconds[n]), RATE)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(min(number, DIFFERENT))))
    for n in range(DIFFERENT, number):
        os.link(path(n % DIFFERENT), path(n))
    print(f"{number} clips, {made / 3600:.2f} h")


if __name__ == "__main__":
    main()
