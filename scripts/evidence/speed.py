"""How fast pitch is tracked: the command `hlfeat pitch` beside torchcrepe's tiny model, in turn, on the same machine.

    python -m scripts.evidence FluidR3_GM.sf2 --only speed

The clips are the test half's notes one after the other, in files of half a minute. `hlfeat pitch` is timed as a whole:
it starts, reads, computes, writes CSV files, and ends. Of torchcrepe only its prediction of samples in memory is timed,
of the first minutes. Each in turn, several times; the medians count.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

from scripts.evidence.clips import RATE, clips
from scripts.evidence.notes import notes
from scripts.evidence.records import Record, divide
from scripts.evidence.tables import markdown
from scripts.evidence.trackers import crepe_tiny

LAPS = 3
MINUTES, SECONDS = 60, 30  # of all files, and of one
CREPE_MINUTES = 2
METHODS = ("pitch-salience", "pitch-salience-fine", "crepe tiny")


def run(font: Path, *, finished: Sequence[Record] = (), write: Callable[[Record], None]) -> list[Record]:
    """The laps of all methods, in turn; a run that was stopped begins again.

    Raises HlfeatError where the soundfont cannot be read.
    """
    jobs = [{"experiment": "speed", "lap": lap, "method": method} for lap in range(LAPS) for method in METHODS]
    done, missing = divide(jobs, finished)
    if not missing:
        return done
    x = np.concatenate([clip.samples for clip in clips(notes(font, "test"))])
    x = np.resize(x, MINUTES * 60 * RATE)  # again from the beginning
    records = []
    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        files = Path(folder) / "clips"
        files.mkdir()
        for i, part in enumerate(x.reshape(-1, SECONDS * RATE)):
            soundfile.write(files / f"{i:03}.wav", part, RATE)
        for job in jobs:
            begun = time.perf_counter()
            if job["method"] == "crepe tiny":
                crepe_tiny(x[: CREPE_MINUTES * 60 * RATE])
                audio = CREPE_MINUTES * 60
            else:
                audio = track_folder(files, str(job["method"]), Path(folder) / f"{job['method']}-{job['lap']}")
            seconds = time.perf_counter() - begun
            records.append({**job, "audio_seconds": audio, "seconds": round(seconds, 3)})
            write(records[-1])
    return records


def track_folder(files: Path, configuration: str, out: Path) -> int:
    """Run the command. Returns the seconds of audio."""
    command = [sys.executable, "-m", "hlfeat", "pitch", files, "-o", out, "-c", configuration, "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return MINUTES * 60


def tables(records: Sequence[Record]) -> str:
    lines = []
    for method in METHODS:
        times = [r["audio_seconds"] / r["seconds"] for r in records if r["method"] == method]
        if times:
            lines.append([method, f"{np.median(times):.0f}", f"{min(times):.0f} to {max(times):.0f}"])
    return markdown(["method", "times real time, median", f"of {LAPS} laps"], lines)
