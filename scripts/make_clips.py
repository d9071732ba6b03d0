#!/usr/bin/env python
"""Made-up recordings for measuring: FLAC, 16 kHz, 2 to 20 s each, harmonics that glide in noise that comes and goes.

    scripts/make_clips.py FOLDER [--hours 4]

As much of a decoder's work as speech is, and never the same clip twice in a row. The same files every time.
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


def clip(seed: int) -> np.ndarray:
    """About what a sentence looks like to a codec: [T], 16-bit."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(RATE * rng.uniform(2, 20))) / RATE
    f0 = 150 + 60 * np.sin(2 * np.pi * rng.uniform(0.2, 0.6) * t)
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 20))
    syllables = np.clip(np.sin(2 * np.pi * rng.uniform(2, 4) * t), 0, None)
    x = 0.1 * syllables * voice + 0.02 * (1 - syllables) * rng.normal(size=len(t)) + 0.001 * rng.normal(size=len(t))
    return np.round(np.clip(x, -1, 1) * 32767).astype(np.int16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hours", type=float, default=4.0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)

    def write(n: int) -> float:
        x = clip(n)
        soundfile.write(args.folder / f"{n:06d}.flac", x, RATE)
        return len(x) / RATE

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        seconds = list(pool.map(write, range(DIFFERENT)))
    made, n = sum(seconds), DIFFERENT
    while made < args.hours * 3600:
        os.link(args.folder / f"{n % DIFFERENT:06d}.flac", args.folder / f"{n:06d}.flac")
        made, n = made + seconds[n % DIFFERENT], n + 1
    print(f"{n} clips, {made / 3600:.2f} h")


if __name__ == "__main__":
    main()
